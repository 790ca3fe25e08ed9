package topologies

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Impairment is what a cable does to the packets of a direction. The zero value does nothing.
type Impairment struct {
	// Rate is the speed of the line in bit/s; 0 is as fast as the machine.
	Rate uint64 `json:"rate_bits_per_second,omitempty"`
	// Delay is how long each packet takes, and Jitter how much more or less at most; in JSON in nanoseconds.
	Delay  time.Duration `json:"delay_ns,omitempty"`
	Jitter time.Duration `json:"jitter_ns,omitempty"`
	// Loss, Reorder and Duplicate are how many packets of a hundred are lost, come before others, and come twice.
	Loss      float64 `json:"loss_percent,omitempty"`
	Reorder   float64 `json:"reorder_percent,omitempty"`
	Duplicate float64 `json:"duplicate_percent,omitempty"`
	// Hole drops packets longer than that many bytes, IP header included, without telling anybody; 0 does not.
	Hole int `json:"hole_bytes,omitempty"`
	// Cut drops everything, and the link stays up.
	Cut bool `json:"cut,omitempty"`
}

// String is how people say it: "20 Mbit/s, 40 ms ± 5 ms, 1 % lost"; empty for a cable that is fine.
func (i Impairment) String() string {
	var words []string
	add := func(is bool, format string, args ...any) {
		if is {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(i.Cut, "cut")
	add(i.Rate != 0, "%s", rate(i.Rate))
	add(i.Delay != 0 && i.Jitter == 0, "%s", millis(i.Delay))
	add(i.Jitter != 0, "%s ± %s", millis(i.Delay), millis(i.Jitter))
	add(i.Loss != 0, "%g %% lost", i.Loss)
	add(i.Reorder != 0, "%g %% reordered", i.Reorder)
	add(i.Duplicate != 0, "%g %% twice", i.Duplicate)
	add(i.Hole != 0, "nothing over %d bytes", i.Hole)
	return strings.Join(words, ", ")
}

func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'g', 4, 64) + " ms"
}

// rateUnits are the units of rates as tc(8) writes them, in bit/s.
var rateUnits = []struct {
	name string
	bits float64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

func rate(bits uint64) string {
	for _, u := range rateUnits {
		if float64(bits) >= u.bits {
			return strconv.FormatFloat(float64(bits)/u.bits, 'g', 4, 64) + " " + unitName(u.name) + "/s"
		}
	}
	return "0 bit/s"
}

// unitName is a unit in prose: Mbit, and kbit in lower case (IEC 80000-13).
func unitName(u string) string {
	if u[0] == 'm' || u[0] == 'g' {
		return strings.ToUpper(u[:1]) + u[1:]
	}
	return u
}

// ParseRate reads a rate as tc(8) writes it: 20mbit, 512kbit, 1gbit.
func ParseRate(s string) (uint64, error) {
	for _, u := range rateUnits {
		if number, ok := strings.CutSuffix(strings.ToLower(s), u.name); ok {
			if f, err := strconv.ParseFloat(number, 64); err == nil && f > 0 && f*u.bits < 1e15 {
				return uint64(f * u.bits), nil
			}
			break
		}
	}
	return 0, fmt.Errorf("%q is no rate: write it as 20mbit, 512kbit or 1gbit", s)
}

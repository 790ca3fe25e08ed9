package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// bytesText prints a number of bytes the way wg(8) does: "1.21 MiB".
func bytesText(n uint64) string {
	const unit = 1024
	if n < unit {
		return strconv.FormatUint(n, 10) + " B"
	}
	f, i := float64(n)/unit, 0
	for f >= unit && i < len("KMGTPE")-1 {
		f, i = f/unit, i+1
	}
	return fmt.Sprintf("%.2f %ciB", f, "KMGTPE"[i])
}

// shortBytes is bytesText in one word, for tables: "1.21MiB".
func shortBytes(n uint64) string { return strings.ReplaceAll(bytesText(n), " ", "") }

// shortAge prints a duration in one word with two units at most: "4s", "1m04s", "2h13m", "3d04h".
func shortAge(d time.Duration) string {
	d = max(d, 0)
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s%86400/3600)
}

// since is shortAge of the time between t and now; empty for the zero time.
func since(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return shortAge(now.Sub(t))
}

// ago prints the time between t and now the way wg(8) does: "1 minute, 4 seconds ago".
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	if d < time.Second {
		return "now"
	}
	return longAge(d) + " ago"
}

func longAge(d time.Duration) string {
	left := int64(max(d, 0) / time.Second)
	var parts []string
	for _, u := range []struct {
		name    string
		seconds int64
	}{{"day", 86400}, {"hour", 3600}, {"minute", 60}, {"second", 1}} {
		n := left / u.seconds
		left %= u.seconds
		if n == 0 {
			continue
		}
		s := fmt.Sprintf("%d %s", n, u.name)
		if n != 1 {
			s += "s"
		}
		parts = append(parts, s)
	}
	if len(parts) == 0 {
		return "0 seconds"
	}
	return strings.Join(parts, ", ")
}

// took prints how long a change took, given in seconds, with the unit that fits: "820us", "1.4ms", "2.1s".
func took(seconds float64) string {
	switch {
	case seconds <= 0:
		return ""
	case seconds < 1e-3:
		return fmt.Sprintf("%.0fus", seconds*1e6)
	case seconds < 1:
		return fmt.Sprintf("%.1fms", seconds*1e3)
	}
	return fmt.Sprintf("%.1fs", seconds)
}

// plural prints a count with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// families prints numbers by family: "12 IPv4, 4 IPv6".
func families(m map[string]int) string {
	return fmt.Sprintf("%d IPv4, %d IPv6", m["ipv4"], m["ipv6"])
}

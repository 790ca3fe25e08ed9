package main

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// format writes a value with its unit about as Grafana does. Decimals less than 0 are as many as are needed.
func format(v float64, unit string, decimals int) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, -1): // the largest of nothing
		return "–"
	case math.IsInf(v, 1):
		return "∞"
	}
	switch unit {
	case "s":
		return duration(v, decimals)
	case "percentunit":
		return digits(v*100, decimals) + " %"
	case "bps":
		return scaled(v, 1000, decimals, "b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s")
	case "bytes":
		return scaled(v, 1024, decimals, "B", "KiB", "MiB", "GiB", "TiB")
	case "none", "":
		return digits(v, decimals)
	case "dateTimeFromNow":
		return "in " + duration(v/1000-float64(time.Now().Unix()), 0)
	default: // pps, cps, ops, reqps, mps
		return scaled(v, 1000, decimals, " "+rates[unit], " k"+rates[unit], " M"+rates[unit])
	}
}

var rates = map[string]string{"pps": "p/s", "cps": "c/s", "ops": "ops/s", "reqps": "req/s", "mps": "msg/s"}

func digits(v float64, decimals int) string {
	if decimals >= 0 {
		return strconv.FormatFloat(v, 'f', decimals, 64)
	}
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func scaled(v, base float64, decimals int, units ...string) string {
	i := 0
	for math.Abs(v) >= base && i < len(units)-1 {
		v /= base
		i++
	}
	return digits(v, decimals) + unitSpace(units[i])
}

func unitSpace(u string) string {
	if u[0] == ' ' {
		return u
	}
	return " " + u
}

func duration(v float64, decimals int) string {
	for _, u := range []struct {
		size float64
		name string
	}{{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}, {1e-3, "ms"}, {1e-6, "µs"}} {
		if math.Abs(v) >= u.size {
			if decimals < 0 && u.size > 1 {
				return fmt.Sprintf("%.1f %s", v/u.size, u.name)
			}
			return digits(v/u.size, decimals) + " " + u.name
		}
	}
	return digits(v, max(decimals, 0)) + " s"
}

package config

import "testing"

// A session is disabled by name, for all of a peer's sessions, and only the one that says so.
func TestEnabled(t *testing.T) {
	for name, c := range map[string]struct {
		peer, neighbour string
		nyc, core       bool // disabled
		change          string
	}{
		"by default":   {"", "", false, false, ""},
		"enabled":      {" enabled: true ", ", enabled: true", false, false, ""},
		"the peer":     {" enabled: false ", "", true, false, "peer nyc: bgp.enabled true -> false"},
		"on the LAN":   {"", ", enabled: false", false, true, "neighbour core: enabled true -> false"},
		"both of them": {" enabled: false, passive: true ", ", enabled: false", true, true, "neighbour core: enabled true -> false"},
	} {
		t.Run(name, func(t *testing.T) {
			plain, err := load(t, withBFD("", "", ""))
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := load(t, withBFD("", c.peer, c.neighbour))
			if err != nil {
				t.Fatal(err)
			}
			if nyc, core := cfg.Peers[0].Sessions[0].Disabled, cfg.Neighbours[0].Session.Disabled; nyc != c.nyc || core != c.core {
				t.Errorf("disabled: nyc %t, core %t, want %t and %t", nyc, core, c.nyc, c.core)
			}
			first := ""
			if changes := Diff(plain, cfg); len(changes) > 0 {
				first = changes[0].String()
			}
			if first != c.change {
				t.Errorf("change %q, want %q", first, c.change)
			}
		})
	}
}

package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sitewire/gateway/wg"
)

// probes loads a site with these peers, each with the lines given, and returns their intervals by name.
func probes(t *testing.T, top string, peers map[string]string) (map[string]time.Duration, *Config) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "site: fra\nasn: 4242420001\nrouter_id: 172.20.1.1\nwireguard: { private_key: \"${file:/etc/sitewire/private.key}\" }\n%speers:\n", top)
	for name, lines := range peers {
		key, err := wg.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "  %s: { public_key: %s, endpoint: \"192.0.2.1:51820\", %s }\n", name, key.Public(), lines)
	}
	c, err := load(t, b.String())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]time.Duration{}
	for _, p := range c.Peers {
		out[p.Name] = p.Probe
	}
	return out, c
}

// TestProbePeers: the peer's own word counts, then the gateway's; what may sleep or has no address is left alone.
func TestProbePeers(t *testing.T) {
	got, c := probes(t, "probe: { interval: 20s }\n", map[string]string{
		"plain":  "asn: 64512, policy: hub",
		"lte":    "asn: 64513, policy: hub, probe: 5m",
		"off":    "asn: 64514, policy: hub, probe: off",
		"sleepy": "asn: 64515, policy: hub, keepalive: off",
		"woken":  "asn: 64516, policy: hub, keepalive: off, probe: 1m",
		"mute":   "allowed_ips: 10.1.0.0/24",
		"wanted": "allowed_ips: 10.2.0.0/24, probe: 1m",
		"static": "allowed_ips: 10.3.0.0/24, tunnel: { local: fe80::1, remote: fe80::2 }",
	})
	for name, want := range map[string]time.Duration{
		"plain": 20 * time.Second, "lte": 5 * time.Minute, "off": 0, "sleepy": 0, "woken": time.Minute, "mute": 0, "wanted": 0, "static": 20 * time.Second,
	} {
		if got[name] != want {
			t.Errorf("%s is probed every %v, want %v", name, got[name], want)
		}
	}
	warned := slices.DeleteFunc(c.Warnings, func(w Warning) bool { return !strings.Contains(w.Message, "nothing to probe") })
	if len(warned) != 1 || !strings.Contains(warned[0].Message, "peer wanted") {
		t.Errorf("warnings: %v", warned)
	}
}

// TestProbeDefault: the more peers, the fewer echoes to each; a peer more is no news of the others.
func TestProbeDefault(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 10 * time.Second, 20: 10 * time.Second, 21: 30 * time.Second, 50: 30 * time.Second, 51: time.Minute, 200: time.Minute} {
		peers := map[string]string{}
		for i := range n {
			peers[fmt.Sprintf("p%d", i)] = fmt.Sprintf("asn: %d, policy: hub", 4200000000+i)
		}
		got, c := probes(t, "", peers)
		if got["p0"] != want || c.Probe.Interval != want {
			t.Errorf("%d peers: %v, want %v", n, got["p0"], want)
		}
		if text := string(c.Canonical()); strings.Contains(text, "  probe:") {
			t.Errorf("a peer that is probed like all others says so:\n%s", text)
		}
	}
	got, _ := probes(t, "probe: { interval: off }\n", map[string]string{"plain": "asn: 64512, policy: hub"})
	if got["plain"] != 0 {
		t.Errorf("off, and yet %v", got)
	}
}

// TestProbeTimeout: nobody asked for the default, so it follows a shorter interval; what is written fits or is refused (testdata/bad).
func TestProbeTimeout(t *testing.T) {
	for top, want := range map[string]time.Duration{
		"":                                       3 * time.Second,
		"probe: { interval: 2s }\n":              2 * time.Second,
		"probe: { interval: off }\n":             3 * time.Second,
		"probe: { timeout: 10s }\n":              10 * time.Second,
		"probe: { interval: 2s, timeout: 2s }\n": 2 * time.Second,
	} {
		if _, c := probes(t, top, map[string]string{"plain": "asn: 64512, policy: hub", "off": "asn: 64514, policy: hub, probe: off"}); c.Probe.Timeout != want {
			t.Errorf("%q: timeout %s, want %s", top, c.Probe.Timeout, want)
		}
	}
}

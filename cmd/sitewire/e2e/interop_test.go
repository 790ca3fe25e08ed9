package e2e

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// TestInterop: a sitewire site and a site of somebody else's daemons exchange both families in every usual session
// shape, the tables of both sides agree entry by entry, and hosts behind them reach each other.
func TestInterop(t *testing.T) {
	for _, other := range []string{"bird", "frr", "gobgpd"} {
		for _, sh := range []shape{shapeA, shapeB, shapeC} {
			t.Run(other+"/"+string(sh), func(t *testing.T) { interop(t, other, sh) })
		}
	}
}

func interop(t *testing.T, other string, sh shape) {
	l := newLab(t)
	a, b := l.site("ours"), l.site("theirs")
	f := b.wireguard(a)
	install := func() {}
	switch other {
	case "bird":
		f.bird(a, sh)
	case "frr":
		f.frr(a, sh)
	case "gobgpd":
		install = f.gobgpd(a, sh)
	}
	d := a.run(a.head() + "bgp: { hold_time: 9s, keepalive: 3s }\npeers:\n" + b.peerYAML(sh))
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range []*netns.NS{a.ns, b.ns} {
				t.Logf("%s:\n%s%s", n, nstest.Run(t, n, "ip", "addr"), nstest.Run(t, n, "ip", "-6", "route", "show", "table", "all"))
			}
			if f.birdc != nil {
				t.Log(f.birdc("show", "protocols", "all"))
			}
		}
	})
	sessions := 1
	if sh == shapeC {
		sessions = 2
	}
	d.sessionsUp(sessions)

	ours := sorted([]netip.Prefix{a.lan4, a.lan6})
	nstest.Eventually(t, 20*time.Second, other+" to have our prefixes and no others", func() error {
		got, err := f.learned()
		if err != nil {
			return err
		}
		return equalPrefixes(t, "learned by "+other, got, ours)
	})
	nstest.Eventually(t, 20*time.Second, "us to have theirs, installed, and no others", func() error {
		return d.carries(f.own(), "theirs")
	})
	install()
	reach(t, a, b)
	reach(t, b, a)
}

// carries checks that the kernel's routes and the peer's allowed-IPs are exactly want, plus the peer's own tunnel
// addresses among the allowed-IPs.
func (d *daemon) carries(want []netip.Prefix, peer string) error {
	fib := d.fib()
	if err := equalPrefixes(d.t, "kernel routes", fib, want); err != nil {
		return err
	}
	allowed := d.allowedIPs(peer)
	inner := map[string]bool{inLL[1] + "/128": true, in4[1] + "/32": true, in6[1] + "/128": true}
	var rest []netip.Prefix
	for _, p := range allowed {
		if !inner[p.String()] {
			rest = append(rest, p)
		}
	}
	return equalPrefixes(d.t, "allowed-IPs of "+peer, rest, want)
}

// fib returns what the kernel has of our unicast routes, sorted.
func (d *daemon) fib() []netip.Prefix {
	d.t.Helper()
	var out []netip.Prefix
	for _, fam := range []string{"-4", "-6"} {
		text := nstest.Run(d.t, d.ns, "ip", "-j", fam, "route", "show", "table", "all", "proto", protocol)
		var rows []struct {
			Dst  string `json:"dst"`
			Type string `json:"type"`
		}
		if strings.TrimSpace(text) == "" {
			continue
		}
		must(d.t, json.Unmarshal([]byte(text), &rows))
		for _, r := range rows {
			if r.Type != "" && r.Type != "unicast" {
				continue
			}
			switch {
			case r.Dst == "default" && fam == "-4":
				r.Dst = "0.0.0.0/0"
			case r.Dst == "default":
				r.Dst = "::/0"
			case !strings.Contains(r.Dst, "/"):
				a := netip.MustParseAddr(r.Dst)
				out = append(out, netip.PrefixFrom(a, a.BitLen()))
				continue
			}
			out = append(out, netip.MustParsePrefix(r.Dst))
		}
	}
	return sorted(out)
}

// allowedIPs returns what `wg show` says that the peer owns, sorted.
func (d *daemon) allowedIPs(peer string) []netip.Prefix {
	d.t.Helper()
	p := d.peer(peer)
	text := nstest.Run(d.t, d.ns, "wg", "show", p.Device, "allowed-ips")
	var out []netip.Prefix
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != p.PublicKey.String() {
			continue
		}
		for _, f := range fields[1:] {
			if f != "(none)" {
				out = append(out, netip.MustParsePrefix(f))
			}
		}
	}
	return sorted(out)
}

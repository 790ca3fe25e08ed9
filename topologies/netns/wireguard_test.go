package netns_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// wgKey runs `wg genkey` or `wg pubkey` and returns the key that it prints.
func wgKey(t *testing.T, ns *netns.NS, what, in string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), nstest.Patience(20*time.Second))
	defer cancel()
	cmd := ns.Command(ctx, "wg", what)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("wg %s: %v", what, err)
	}
	return strings.TrimSpace(string(out))
}

// TestKernelWireGuard makes a tunnel of the kernel's own devices with `wg` and `ip`: what tests of the kernel's WireGuard stand on.
func TestKernelWireGuard(t *testing.T) {
	nstest.Need(t, nstest.LinkType("wireguard"), nstest.Program("wg"), nstest.Program("ip"))
	left, right := pair(t)
	type end struct {
		ns                 *netns.NS
		private, public    string
		inner, outer, peer string
	}
	ends := []*end{
		{ns: left, inner: "10.9.0.1", outer: left4.String(), peer: "10.9.0.2"},
		{ns: right, inner: "10.9.0.2", outer: right4.String(), peer: "10.9.0.1"},
	}
	for _, e := range ends {
		e.private = wgKey(t, e.ns, "genkey", "")
		e.public = wgKey(t, e.ns, "pubkey", e.private)
	}
	for i, e := range ends {
		other := ends[1-i]
		nstest.Run(t, e.ns, "ip", "link", "add", "wg0", "type", "wireguard")
		cmd := e.ns.Command(t.Context(), "wg", "set", "wg0", "listen-port", "51820", "private-key", "/dev/stdin",
			"peer", other.public, "endpoint", other.outer+":51820", "allowed-ips", e.peer+"/32")
		cmd.Stdin = strings.NewReader(e.private)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("wg set: %v: %s", err, out)
		}
		nstest.Run(t, e.ns, "ip", "address", "add", e.inner+"/24", "dev", "wg0")
		nstest.Run(t, e.ns, "ip", "link", "set", "wg0", "up")
	}
	opts := netns.PingOpts{Count: 10, Timeout: nstest.Patience(5 * time.Second)}
	if lost := ping(t, left, netip.Addr{}, netip.MustParseAddr("10.9.0.2"), opts); lost != 0 {
		t.Errorf("lost %d of %d", lost, opts.Count)
	}
	if shown := nstest.Run(t, left, "wg", "show", "wg0"); !strings.Contains(shown, "latest handshake") {
		t.Errorf("no handshake in:\n%s", shown)
	}
}

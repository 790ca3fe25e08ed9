package host

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns/nstest"
)

func (r *rig) has(device string) bool {
	return slices.ContainsFunc(r.ip("-o link show"), func(l string) bool { return strings.Contains(l, " "+device+":") || strings.Contains(l, " "+device+"@") })
}

// What is not a WireGuard device with our group stays, and what is not there is gone already.
func TestRemoveTunnelOfOthers(t *testing.T) {
	r := newRig(t)
	r.ip("link set tun0 group 21335") // our group, another kind
	r.do(func() error { return r.host.RemoveTunnel(t.Context(), "tun0") })
	r.do(func() error { return r.host.RemoveTunnel(t.Context(), "nothing") })
	if !r.has("tun0") {
		t.Error("a device of another kind was removed")
	}
}

func TestKernelRemoveTunnel(t *testing.T) {
	nstest.Need(t, nstest.LinkType("wireguard"))
	r := newRig(t)
	for _, name := range []string{"ours", "theirs"} {
		r.ip("link add " + name + " type wireguard")
	}
	r.do(func() error { return r.host.SetLink(t.Context(), LinkConfig{Name: "ours", MTU: 1420, Up: true}) })
	for _, name := range []string{"ours", "theirs"} {
		r.do(func() error { return r.host.RemoveTunnel(t.Context(), name) })
	}
	if r.has("ours") || !r.has("theirs") {
		t.Errorf("ours there: %t, theirs there: %t", r.has("ours"), r.has("theirs"))
	}
}

// WireGuard binds its port when the device goes up. One that is taken is named as the reason, with what to look at.
func TestKernelPortTaken(t *testing.T) {
	nstest.Need(t, nstest.LinkType("wireguard"), nstest.Program("wg"))
	r := newRig(t)
	for _, name := range []string{"first", "second"} {
		r.ip("link add " + name + " type wireguard")
		r.run("wg", "set", name, "listen-port", "51820")
	}
	r.do(func() error { return r.host.SetLink(t.Context(), LinkConfig{Name: "first", Up: true}) })
	err := r.ns.Do(func() error { return r.host.SetLink(t.Context(), LinkConfig{Name: "second", Up: true}) })
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "device second: ") || !strings.Contains(err.Error(), "ss -ulpn") {
		t.Errorf("%v", err)
	}
}

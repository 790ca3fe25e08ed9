package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/topologies/netns/nstest"
)

// victimEnv makes this program the process that is killed.
const victimEnv = "SITEWIRE_TEST_VICTIM"

// block is n networks of length 24 under 10.x.
func block(first byte, n int, peer wg.PublicKey) (list []wg.AllowedIP) {
	for i := range n {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, first + byte(i>>8), byte(i), 0}), 24)
		list = append(list, wg.AllowedIP{Prefix: p, Peer: peer})
	}
	return list
}

// victim adds and removes entries until it is killed.
func victim() error {
	ctx := context.Background()
	d, err := Open(ctx, config("wg0", "self"), Options{})
	if err != nil {
		return err
	}
	list := block(100, 1000, wgtest.Peer("a").PublicKey)
	for n := 0; ; n++ {
		if err := d.Apply(ctx, wg.Delta{Allow: list}); err != nil {
			return err
		}
		if n == 1 {
			fmt.Println("busy")
		}
		if err := d.Apply(ctx, wg.Delta{Disallow: list}); err != nil {
			return err
		}
	}
}

// A process that is killed at any moment of a removal leaves no throw-away peer, and what others own as it was.
func TestKernelKilledInRemoval(t *testing.T) {
	nstest.Need(t, wireguard)
	ns := nstest.NS(t, "killed")
	d := openIn(t, ns, config("wg0", "self"), Options{})
	static := block(1, 500, wgtest.Peer("b").PublicKey)
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a"), wgtest.Peer("b")}, Allow: static}))
	self, err := os.Executable()
	must(t, err)
	half := 0 // killed in the middle of something
	for range 10 {
		cmd := ns.Command(t.Context(), self)
		cmd.Env, cmd.Stderr = append(os.Environ(), victimEnv+"=1"), os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "busy\n" {
			t.Fatalf("the victim says %q, %v", line, err)
		}
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		must(t, cmd.Process.Kill())
		if _, killed := errors.AsType[*exec.ExitError](cmd.Wait()); !killed {
			t.Fatal("the victim ended by itself")
		}
		s, err := d.readAll(t.Context(), true)
		must(t, err)
		if len(s.peers) != 2 || len(s.parked) != 0 {
			t.Errorf("%d peers and %d throw-away ones, want 2 and none", len(s.peers), len(s.parked))
		}
		own := slices.DeleteFunc(slices.Clone(s.allowed), func(a wg.AllowedIP) bool { return a.Peer != static[0].Peer })
		if !slices.Equal(sorted(own), sorted(static)) {
			t.Errorf("peer b has %d entries, want its %d", len(own), len(static))
		}
		if len(s.allowed) > len(own) {
			half++
		}
	}
	t.Logf("killed 10 times, %d times with entries in place", half)
}

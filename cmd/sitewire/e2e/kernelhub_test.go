package e2e

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"sitewire/gateway/config"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// Size of TestKernelMoves: every round moves each mobile prefix once, so that there are 10,000 moves; and every fourth also takes each away and
// brings it back.
const (
	kernelSpokes  = 8
	kernelMobiles = 1000
	kernelRounds  = 10
	kernelBatch   = 500
)

// TestKernelMoves: prefixes move between the peers of one kernel device, are taken away and come back, ten thousand times. Packets to prefixes
// that stay are all answered meanwhile, and those to the others come out at the spoke that had the prefix or at the one that gets it.
func TestKernelMoves(t *testing.T) {
	h := newHubOn(t, newKernelLab(t), kernelSpokes, hubOptions{policy: "many", backend: config.BackendKernel})
	h.stable()
	first := len(h.prefixes)
	h.mobile(kernelMobiles)
	h.settle("the first announcements")
	h.deliver("before any move")

	for k := range h.prefixes {
		h.arrived.moves(k, h.owner[k], h.owner[k])
	}
	stop := h.spray(first)
	var pinged []netip.Addr
	for _, s := range h.spokes {
		pinged = append(pinged, s.host4, s.host6)
	}
	flow, err := netns.StartFlow(h.host, pinged, netns.FlowOpts{Interval: time.Duration(len(pinged)) * time.Millisecond})
	must(t, err)
	begin := time.Now()
	moves, removals := 0, 0
	for round := range kernelRounds {
		for part := range slices.Chunk(h.random.Perm(len(h.prefixes)-first), kernelBatch) {
			for i := range part {
				part[i] += first
			}
			h.shift(part, round%2 == 0)
			moves += len(part)
			if round%4 == 3 {
				h.away(part)
				removals += len(part)
			}
		}
	}
	took := time.Since(begin)
	sent, lost, worst := 0, 0, time.Duration(0)
	for _, r := range flow.Stop(nstest.Patience(5 * time.Second)) {
		sent, lost, worst = sent+r.Sent, lost+r.Lost(), max(worst, r.MaxRTT)
		if r.Lost() != 0 || r.Sent == 0 {
			t.Errorf("a prefix that did not move lost packets, or had none: %s", r)
		}
	}
	sprayed := stop()
	h.deliver("after all moves")
	h.certify("the end")
	h.arrived.mu.Lock()
	defer h.arrived.mu.Unlock()
	if h.arrived.stray > 0 || h.arrived.came == 0 {
		t.Errorf("%d of %d packets came out at the wrong spoke: %v", h.arrived.stray, h.arrived.came, h.arrived.strays)
	}
	t.Logf("%d moves and %d removals in %.1f s; %d pings (%.0f/s) to prefixes that stayed: %d lost, slowest %v; %d of %d packets to the others came out, all where they should",
		moves, removals, took.Seconds(), sent, float64(sent)/took.Seconds(), lost, worst.Round(time.Millisecond), h.arrived.came, sprayed)
}

// spray sends packets to mobile prefixes, whatever happens to them, until it is told to stop; it then returns how many.
func (h *hub) spray(first int) (stop func() int) {
	end, sent := make(chan struct{}), 0
	var sender sync.WaitGroup
	sender.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for k := first; ; k++ {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			if k == len(h.prefixes) {
				k = first
			}
			probe := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, anytime), uint32(k))
			// A prefix that is away just now may be refused.
			if _, err := h.probes.WriteToUDPAddrPort(probe, netip.AddrPortFrom(h.prefixes[k].Addr().Next(), probePort)); err == nil {
				sent++
			}
		}
	})
	return func() int {
		close(end)
		sender.Wait()
		return sent
	}
}

// away withdraws prefixes altogether, and announces them again when they are gone.
func (h *hub) away(prefixes []int) {
	h.t.Helper()
	was := slices.Clone(h.owner)
	h.withdrawAll(prefixes, was)
	for _, k := range prefixes {
		h.owner[k] = nobody
	}
	h.settle("prefixes that are gone")
	for _, k := range prefixes {
		h.owner[k] = was[k]
	}
	h.announceAll(prefixes)
	h.settle("prefixes that are back")
}

// shift is take or leave for many prefixes in few UPDATEs.
func (h *hub) shift(prefixes []int, better bool) {
	h.t.Helper()
	old := slices.Clone(h.owner)
	for _, k := range prefixes {
		h.owner[k] = h.other(k)
		h.arrived.moves(k, old[k], h.owner[k])
		if better {
			h.length[k]--
		} else {
			h.length[k]++
		}
	}
	h.announceAll(prefixes)
	if better {
		h.settle("a better path")
	}
	h.withdrawAll(prefixes, old)
	h.settle("a withdrawal")
}

// announceAll announces prefixes at their owners, and withdrawAll withdraws them at others: those of one spoke, family and length together.
func (h *hub) announceAll(prefixes []int) {
	for _, g := range h.together(prefixes, h.owner) {
		h.announceFrom(g.prefixes, g.spoke, g.length)
	}
}

func (h *hub) withdrawAll(prefixes, owner []int) {
	for _, g := range h.together(prefixes, owner) {
		must(h.t, h.spokes[g.spoke].bgp.Withdraw(g.prefixes...))
	}
}

// group is what fits one UPDATE.
type group struct {
	spoke, length int
	prefixes      []netip.Prefix
}

func (h *hub) together(prefixes, owner []int) (list []group) {
	type key struct {
		spoke, length int
		v6            bool
	}
	at := map[key]int{}
	for _, k := range prefixes {
		p := h.prefixes[k]
		x := key{owner[k], h.length[k], p.Addr().Is6()}
		i, ok := at[x]
		if !ok {
			i = len(list)
			at[x], list = i, append(list, group{spoke: x.spoke, length: x.length})
		}
		list[i].prefixes = append(list[i].prefixes, p)
	}
	return list
}

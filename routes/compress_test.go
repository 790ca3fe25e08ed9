package routes

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// wgModel is what devices have: the longest match decides.
type wgModel map[place]string

func (m wgModel) owner(device string, a netip.Addr) string {
	for bits := a.BitLen(); bits >= 0; bits-- {
		p, _ := a.Prefix(bits)
		if peer, ok := m[place{device, p}]; ok {
			return peer
		}
	}
	return ""
}

func (m wgModel) run(op Op) {
	at := place{op.Allowed.Device, op.Allowed.Prefix}
	switch {
	case op.Kind == Allow:
		m[at] = op.Allowed.Peer
	case op.Kind == Disallow && m[at] == op.Allowed.Peer:
		delete(m, at)
	}
}

// desiredIPs is every prefix that a snapshot gives to somebody.
func desiredIPs(s *Snapshot) wgModel {
	m := wgModel{}
	for r := range s.Rows() {
		for _, o := range r.Owners {
			m[place{o.Device, r.Prefix}] = o.Peer
		}
	}
	return m
}

// slowly compresses by the book, all of it anew.
func slowly(full wgModel, foreign map[place]struct{}, on map[string]bool, named func(place, string) bool) wgModel {
	root := map[place]string{}
	byLength := make([][]place, 129)
	own := maps.Clone(full)
	for at := range foreign {
		if _, ours := own[at]; !ours {
			own[at] = foreigner
		}
	}
	seen := map[place]bool{}
	for at := range own {
		for bits := at.prefix.Bits(); bits >= 0; bits-- {
			p, _ := at.prefix.Addr().Prefix(bits)
			if up := (place{at.device, p}); !seen[up] {
				seen[up] = true
				byLength[bits] = append(byLength[bits], up)
			}
		}
	}
	for bits := 128; bits >= 0; bits-- {
		for _, at := range byLength[bits] {
			if peer, ok := own[at]; ok {
				root[at] = peer
				continue
			}
			low, _ := at.prefix.Addr().Prefix(bits + 1)
			high := netip.PrefixFrom(flipBit(low.Addr(), bits), bits+1)
			if peer := root[place{at.device, low}]; on[at.device] && peer != "" && peer != foreigner && peer == root[place{at.device, high}] {
				root[at] = peer
			}
		}
	}
	out := wgModel{}
	for at, peer := range root {
		if peer == foreigner {
			continue
		}
		left := false
		for bits := at.prefix.Bits() - 1; on[at.device] && bits >= 0; bits-- {
			p, _ := at.prefix.Addr().Prefix(bits)
			if up, ok := root[place{at.device, p}]; ok {
				left = up == peer && at.prefix.Bits()-bits <= compressionReach && !named(at, peer)
				break
			}
		}
		if !left {
			out[at] = peer
		}
	}
	return out
}

// packed is a Table whose plans run against a model, operation by operation.
type packed struct {
	t        testing.TB
	table    *Table
	feed     *Feed
	ledger   *Ledger
	snapshot *Snapshot
	model    wgModel
	probes   []netip.Addr
	devices  []string
	foreign  wgModel
	ops      []string
}

func newPacked(t testing.TB, devices ...string) *packed {
	k := &packed{t: t, table: NewTable(), feed: NewFeed(), ledger: NewLedger(), model: wgModel{}, foreign: wgModel{}, devices: devices}
	k.ledger.Sweep()
	k.snapshot = k.table.Compress().Snapshot
	for i := range 64 {
		k.probes = append(k.probes, netip.AddrFrom4([4]byte{10, 0, byte(i / 16), byte(i % 16 * 16)}))
		k.probes = append(k.probes, netip.MustParseAddr(fmt.Sprintf("fd00:0:%x::1", i*4)))
	}
	k.probes = append(k.probes, netip.MustParseAddr("10.0.4.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::c"))
	return k
}

// seen is who has the probes on the devices, with the foreign entries beside the given ones.
func (k *packed) seen(ours wgModel) map[place]string {
	all := maps.Clone(k.foreign)
	maps.Copy(all, ours)
	out := map[place]string{}
	for _, d := range k.devices {
		for _, a := range k.probes {
			out[place{d, netip.PrefixFrom(a, a.BitLen())}] = all.owner(d, a)
		}
	}
	return out
}

// run runs operations one after the other: each probe has the owner from before or that from after at any time.
func (k *packed) run(what string, ops []Op) {
	k.t.Helper()
	before, after := k.seen(k.model), k.seen(desiredIPs(k.snapshot))
	for i, op := range ops {
		k.model.run(op)
		k.ledger.Done(op, time.Time{}, 0)
		all := maps.Clone(k.foreign)
		maps.Copy(all, k.model)
		for _, a := range k.probes {
			at := place{op.Allowed.Device, netip.PrefixFrom(a, a.BitLen())}
			if !op.Allowed.Prefix.IsValid() || !op.Allowed.Prefix.Contains(a) {
				continue
			}
			if peer := all.owner(at.device, a); peer != before[at] && peer != after[at] {
				k.t.Fatalf("%s: after %q %s on %s has %q; %q before and %q in the end\n%v", what, op, at.prefix, at.device, peer, before[at], after[at], printOps(ops[:i+1]))
			}
		}
		if op.Kind == Install && !k.ledger.MayInstall(k.snapshot.Get(op.Route.Prefix)) {
			k.t.Fatalf("%s: %q comes before who it leads to has it\n%v", what, op, printOps(ops))
		}
	}
	if diff := cmp.Diff(after, k.seen(k.model), cmp.AllowUnexported(place{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		k.t.Fatalf("%s: in the end (-desired +model):\n%s\n%v", what, diff, printOps(ops))
	}
	k.ops = append(k.ops, printOps(ops)...)
}

func printOps(ops []Op) (out []string) {
	for _, op := range ops {
		out = append(out, op.String())
	}
	return out
}

func (k *packed) update(what string, u *Update) {
	k.t.Helper()
	k.snapshot = u.Snapshot
	ops := PlanPrefixes(u.Snapshot, k.ledger, u.Changed())
	if diff := cmp.Diff(printOps(Plan(u.Snapshot, k.ledger)), printOps(ops)); diff != "" {
		k.t.Fatalf("%s: plan (-full +incremental):\n%s", what, diff)
	}
	k.run(what, ops)
	if again := Plan(u.Snapshot, k.ledger); len(again) > 0 {
		k.t.Fatalf("%s: planned again: %v", what, printOps(again))
	}
}

// tidy removes what is superfluous and compares what is left with the slow way.
func (k *packed) tidy(what string) {
	k.t.Helper()
	ops := spares(k.snapshot, k.ledger, everything(k.snapshot, k.ledger))
	for _, op := range ops {
		if !k.ledger.MayDisallow(op.Allowed, nil) || k.ledger.unsettled(k.snapshot, op.Allowed) {
			k.t.Fatalf("%s: %q is held back", what, op)
		}
	}
	k.run(what+", tidied", ops)
	c := k.table.compression
	want := slowly(desiredIPs(k.snapshot), c.foreign, c.on, func(at place, peer string) bool { return c.named(at.prefix, at.device, peer) })
	if diff := cmp.Diff(want.lines(), k.model.lines()); diff != "" {
		k.t.Fatalf("%s: compressed (-slowly +ours):\n%s", what, diff)
	}
}

func (m wgModel) lines() (out []string) {
	for at, peer := range m {
		out = append(out, at.device+" "+at.prefix.String()+" "+peer)
	}
	slices.Sort(out)
	return out
}

// plaza is a policy of own devices, a shared one with a list and tunnel addresses, and one whose peer may send anything.
func plaza(above int) Policy {
	p := Policy{
		Peers: []Peer{
			{Name: "a", Device: "sw-a", Tunnel: []netip.Prefix{netip.MustParsePrefix("fe80::a/128")}},
			{Name: "b", Device: "sw-b", Tunnel: []netip.Prefix{netip.MustParsePrefix("10.0.1.16/32")}},
			{Name: "c", Device: "hub", Shared: true, Tunnel: []netip.Prefix{netip.MustParsePrefix("10.0.2.32/32"), netip.MustParsePrefix("fe80::c/128")}},
			{Name: "d", Device: "hub", Shared: true},
			{Name: "e", Device: "hub", Shared: true},
			{Name: "l", Device: "hub", Shared: true, Mode: List, Static: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.3.0/26")}},
			{Name: "g", Device: "sw-g", Mode: Any},
		},
		MaxPaths:      2,
		CompressAbove: above,
	}
	for _, n := range []string{"a", "b", "c", "d", "e", "g"} {
		p.Neighbours = append(p.Neighbours, Neighbour{Name: n, Peer: n})
	}
	return p
}

// playPacked plays with a table in which there is much to compress.
func playPacked(t testing.TB, intN func(int) int, steps int) {
	k := newPacked(t, "sw-a", "sw-b", "hub", "sw-g")
	k.update("policy", k.table.SetPolicy(plaza(1+intN(4))))
	names := []string{"a", "b", "c", "d", "e", "g"}
	prefix := func() netip.Prefix {
		if intN(4) == 0 {
			p, _ := netip.MustParseAddr(fmt.Sprintf("fd00:0:%x::", intN(64)*4)).Prefix(32 + intN(15))
			return p
		}
		p, _ := netip.AddrFrom4([4]byte{10, 0, byte(intN(4)), byte(intN(16) * 16)}).Prefix(20 + intN(9))
		return p
	}
	pick := func() string { // few peers own much, so that there is something to join
		return names[min(intN(len(names)), intN(len(names)))]
	}
	for i := range steps {
		what := fmt.Sprintf("step %d", i)
		switch intN(12) {
		case 0:
			k.update(what+", policy", k.table.SetPolicy(plaza([]int{1, 5, 20, 1000}[intN(4)])))
		case 1: // somebody else writes, or takes back what he wrote
			at := place{[]string{"sw-a", "hub"}[intN(2)], prefix()}
			_, there := k.foreign[at]
			if there {
				delete(k.foreign, at)
			} else if _, taken := k.model[at]; !taken && k.snapshot.Get(at.prefix) == nil && k.table.compression.joint(at.prefix, at.device) == "" {
				k.foreign[at] = "stranger"
			}
			var list []AllowedIP
			for at, peer := range k.foreign {
				list = append(list, AllowedIP{at.device, at.prefix, peer})
			}
			k.update(what+", foreign", k.table.setForeign(list))
		case 2:
			k.tidy(what)
		case 3:
			k.feed.PutAlive(pick(), intN(2) == 0)
			k.update(what+", alive", k.table.Apply(k.feed.Take()))
		default:
			for range 1 + intN(8) {
				n, p := pick(), prefix()
				if intN(3) == 0 {
					k.feed.PutPath(n, p, nil)
					k.feed.PutBest(BestChange{Prefix: p, Neighbour: n, Withdrawn: true})
					continue
				}
				k.feed.PutPath(n, p, &Path{})
				k.feed.PutBest(BestChange{Prefix: p, Neighbour: n, Replace: intN(3) > 0})
			}
			k.update(what, k.table.Apply(k.feed.Take()))
		}
		for at := range k.foreign { // what we want is ours
			if _, ok := k.model[at]; ok {
				delete(k.foreign, at)
			}
		}
	}
	k.tidy("the end")
}

// TestCompressedByOne: whatever changes, after each single operation every address has the owner from before or the one from
// after, and what is written in the end is what the rules say.
func TestCompressedByOne(t *testing.T) {
	for round := range uint64(3) { // FuzzCompressed looks for more
		r := rand.New(rand.NewPCG(1, round))
		t.Run(fmt.Sprint(round), func(t *testing.T) { playPacked(t, r.IntN, 120) })
	}
}

func FuzzCompressed(f *testing.F) {
	for i := range uint64(4) {
		r, b := rand.New(rand.NewPCG(2, i)), make([]byte, 800)
		for j := range b {
			b[j] = byte(r.IntN(256))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		steps := min(len(b)/8, 150)
		playPacked(t, func(n int) int {
			if len(b) == 0 {
				return 0
			}
			x := int(b[0]) % n
			b = b[1:]
			return x
		}, steps)
	})
}

package kernel

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

// foreign lets another program change the device.
func foreign(t testing.TB, f *fakeKernel, build func(m *message)) {
	t.Helper()
	var m message
	m.reset(fakeIndex)
	build(&m)
	must(t, f.set(m.bytes()))
}

// give is a foreign `wg set wg0 peer NAME allowed-ips +PREFIX`, for a peer that may be new.
func give(name string, list ...string) func(m *message) {
	return func(m *message) {
		m.beginPeer(wgtest.Peer(name).PublicKey, 0)
		for _, p := range list {
			m.addAllowed(netip.MustParsePrefix(p), 0)
		}
	}
}

func wantOwner(t testing.TB, f *fakeKernel, name string, list ...string) {
	t.Helper()
	for _, p := range list {
		if o := f.owner[netip.MustParsePrefix(p)]; name == "" && o != nil || name != "" && (o == nil || o.stats.PublicKey != wgtest.Peer(name).PublicKey) {
			t.Errorf("%s is not %q's", p, name)
		}
	}
}

func noParking(t testing.TB, f *fakeKernel) {
	t.Helper()
	for _, p := range f.peers {
		if parking(p.stats.PublicKey) {
			t.Error("a throw-away peer is left")
		}
	}
}

// Whether the kernel removes single entries is asked once for all devices of an Opener, not before it matters, and of a throw-away peer alone.
func TestCapabilityIsAskedOnce(t *testing.T) {
	for name, removes := range map[string]bool{"Linux6.16": true, "Linux6.1": false} {
		t.Run(name, func(t *testing.T) {
			shared := &capability{}
			asked := 0
			for range 2 {
				f := newFakeKernel(removes)
				d := fakeDevice(t, f, Options{})
				d.known = shared
				f.onSet = func(msg []byte) error {
					// The only entry that the suite never uses.
					if n := countAllowed(t, msg, netip.MustParsePrefix("0.0.0.0/32")); n > 0 {
						asked++
						for _, p := range peersOf(t, msg) {
							if !parking(p) {
								t.Errorf("the question is about peer %s too", p)
							}
						}
					}
					return nil
				}
				must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}, Allow: wgtest.Allowed("a", "10.0.0.0/8", "10.1.0.0/16")}))
				if asked > 0 && len(f.created) > 1 {
					t.Error("asked before it matters")
				}
				for _, p := range []string{"10.0.0.0/8", "10.1.0.0/16"} {
					must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", p)}))
				}
				wantOwner(t, f, "", "10.0.0.0/8", "10.1.0.0/16")
				noParking(t, f)
			}
			if asked != 1 || shared.removes != removes {
				t.Errorf("asked %d times, answer %t", asked, shared.removes)
			}
		})
	}
}

// A question that fails for another reason is asked again.
func TestCapabilityAfterFailure(t *testing.T) {
	f := newFakeKernel(true)
	d := fakeDevice(t, f, Options{})
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}, Allow: wgtest.Allowed("a", "10.0.0.0/8")}))
	f.onSet = func([]byte) error { return unix.ENOMEM }
	if err := d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", "10.0.0.0/8")}); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("error %v, want ENOMEM", err)
	}
	f.onSet = nil
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", "10.0.0.0/8")}))
	wantOwner(t, f, "", "10.0.0.0/8")
	if !d.known.removes {
		t.Error("the kernel removes single entries, and was not believed")
	}
}

// eachPeer takes the peers of a SET_DEVICE apart.
func eachPeer(t testing.TB, msg []byte, f func(attrs []field)) {
	t.Helper()
	a, err := parse(msg[4:], map[int]int{1: 4, 3: 0, 5: 4, 6: 2, 7: 4, 8: -1})
	must(t, err)
	list, err := fields(a[8])
	must(t, err)
	for _, p := range list {
		attrs, err := fields(p.val)
		must(t, err)
		f(attrs)
	}
}

// peersOf are the keys in a SET_DEVICE, in their order.
func peersOf(t testing.TB, msg []byte) (keys []wg.PublicKey) {
	t.Helper()
	eachPeer(t, msg, func(attrs []field) { keys = append(keys, wg.PublicKey(attrs[0].val)) })
	return keys
}

// countAllowed counts the entries of a SET_DEVICE that are about a prefix.
func countAllowed(t testing.TB, msg []byte, want netip.Prefix) (n int) {
	t.Helper()
	eachPeer(t, msg, func(attrs []field) {
		for _, a := range attrs {
			if a.typ != peerAllowedIPs {
				continue
			}
			entries, err := fields(a.val)
			must(t, err)
			for _, e := range entries {
				if got, ok := parseAllowed(e.val); ok && got == want {
					n++
				}
			}
		}
	})
	return n
}

// A throw-away peer comes and goes in one message, and takes nothing but what the peer owned.
func TestParkingIsOneMessage(t *testing.T) {
	f := newFakeKernel(false)
	d := fakeDevice(t, f, Options{})
	must(t, d.Apply(t.Context(), wg.Delta{
		SetPeers: []wg.PeerConfig{wgtest.Peer("a"), wgtest.Peer("b")},
		Allow:    slices.Concat(wgtest.Allowed("a", "10.1.0.0/16", "10.2.0.0/16", "fd01::/16"), wgtest.Allowed("b", "10.3.0.0/16")),
	}))
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", "10.1.0.0/16")})) // and asks what the kernel can do
	f.stolen, f.sets = nil, 0
	var in []wg.PublicKey
	f.onSet = func(msg []byte) error { in = append(in, peersOf(t, msg)...); return nil }
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: slices.Concat(wgtest.Allowed("a", "10.3.0.0/16", "fd01::/16", "10.9.0.0/16"), wgtest.Allowed("b", "10.2.0.0/16"))}))
	if want := []netip.Prefix{netip.MustParsePrefix("fd01::/16")}; f.sets != 1 || !slices.Equal(f.stolen, want) {
		t.Errorf("%d messages moved %v, want one and %v", f.sets, f.stolen, want)
	}
	if len(in) != 2 || in[0] != in[1] || !parking(in[0]) {
		t.Errorf("the message is about %v, want one throw-away peer twice", in)
	}
	wantOwner(t, f, "a", "10.2.0.0/16")
	wantOwner(t, f, "b", "10.3.0.0/16")
	noParking(t, f)
	// Nothing to take is nothing to send.
	f.sets = 0
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("b", "10.2.0.0/16", "10.9.0.0/16")}))
	if f.sets != 0 {
		t.Errorf("%d messages to remove nothing", f.sets)
	}
}

// What another program moved is left to its new owner once the ledger is due to be read again.
func TestParkingLeavesWhatOthersMoved(t *testing.T) {
	f, clock := newFakeKernel(false), &fakeClock{t: time.Unix(1_800_000_000, 0)}
	d := fakeDevice(t, f, Options{Share: 0.1, MaxAge: time.Second})
	d.now = clock.now
	f.onDump = func(int) { clock.add(10 * time.Millisecond) } // a reading takes that long, so the next is due 100 ms later
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a"), wgtest.Peer("b")}, Allow: wgtest.Allowed("a", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16")}))
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", "10.3.0.0/16")}))
	dumps := f.dumps
	foreign(t, f, give("b", "10.1.0.0/16"))
	clock.add(100 * time.Millisecond)
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", "10.1.0.0/16")}))
	wantOwner(t, f, "b", "10.1.0.0/16")
	if f.dumps != dumps+1 {
		t.Errorf("%d readings, want one", f.dumps-dumps)
	}
	// Right after a reading the ledger is believed, and costs nothing.
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", "10.2.0.0/16")}))
	if wantOwner(t, f, "", "10.2.0.0/16"); f.dumps != dumps+1 {
		t.Errorf("%d readings for the second removal", f.dumps-dumps-1)
	}
}

// The ledger follows everything that we do.
func TestLedgerFollows(t *testing.T) {
	f, clock := newFakeKernel(false), &fakeClock{t: time.Unix(1_800_000_000, 0)}
	d := fakeDevice(t, f, Options{})
	d.now = clock.now
	f.onDump = func(int) { clock.add(time.Second) } // so slow that it is read only once
	must(t, d.Apply(t.Context(), wg.Delta{
		SetPeers: []wg.PeerConfig{wgtest.Peer("a"), wgtest.Peer("b"), wgtest.Peer("new")},
		Allow:    slices.Concat(wgtest.Allowed("a", "10.0.0.0/8"), wgtest.Allowed("b", "10.1.0.0/16"), wgtest.Allowed("new", "10.4.0.0/16")),
		Disallow: wgtest.Allowed("a", "10.9.0.0/16"),
	}))
	dumps := f.dumps
	must(t, d.Apply(t.Context(), wg.Delta{Allow: wgtest.Allowed("a", "10.1.0.0/16", "10.2.0.0/16", "::/0")}))
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("b", "10.1.0.0/16")}))
	wantOwner(t, f, "a", "10.1.0.0/16")
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: wgtest.Allowed("a", "10.1.0.0/16", "::/0")}))
	wantOwner(t, f, "", "10.1.0.0/16", "::/0")
	// The prefixes of a removed peer are nobody's, also if it comes back; and those of a peer that the device itself became.
	must(t, d.Apply(t.Context(), wg.Delta{RemovePeers: []wg.PublicKey{wgtest.Peer("a").PublicKey}}))
	must(t, d.Apply(t.Context(), wg.Delta{Device: &wg.DeviceConfig{PrivateKey: wgtest.PrivateKey("new")}}))
	f.stolen = nil
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}, Disallow: slices.Concat(wgtest.Allowed("a", "10.0.0.0/8", "10.2.0.0/16"), wgtest.Allowed("new", "10.4.0.0/16"))}))
	if len(f.stolen) != 0 {
		t.Errorf("%v were taken from nobody", f.stolen)
	}
	if f.dumps != dumps {
		t.Errorf("the device was read %d times", f.dumps-dumps)
	}
}

// A message that fails in its middle leaves a throw-away peer, which goes at once; the same delta works afterwards.
func TestParkingFails(t *testing.T) {
	f := newFakeKernel(false)
	d := fakeDevice(t, f, Options{})
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}, Allow: wgtest.Allowed("a", "10.1.0.0/16", "10.2.0.0/16"), Disallow: wgtest.Allowed("a", "10.9.0.0/16")}))
	failing := true
	f.onSet = func(msg []byte) error {
		if failing && countAllowed(t, msg, netip.MustParsePrefix("10.1.0.0/16")) > 0 {
			failing = false
			// What the kernel did before memory ran out.
			f.peers = append(f.peers, &fakePeer{stats: wg.PeerStats{PublicKey: peersOf(t, msg)[0]}})
			f.owner[netip.MustParsePrefix("10.1.0.0/16")] = f.peers[len(f.peers)-1]
			return unix.ENOMEM
		}
		return nil
	}
	gone := wgtest.Allowed("a", "10.1.0.0/16", "10.2.0.0/16")
	if err := d.Apply(t.Context(), wg.Delta{Disallow: gone}); !errors.Is(err, unix.ENOMEM) {
		t.Fatalf("error %v, want ENOMEM", err)
	}
	noParking(t, f)
	must(t, d.Apply(t.Context(), wg.Delta{Disallow: gone}))
	wantOwner(t, f, "", "10.1.0.0/16", "10.2.0.0/16")
	noParking(t, f)
}

// What a killed process left is in no listing, and goes at adoption.
func TestLeftOverIsRemovedAtAdoption(t *testing.T) {
	kernels(t, func(t *testing.T, f *fakeKernel) {
		d := fakeDevice(t, f, Options{})
		must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}, Allow: wgtest.Allowed("a", "10.1.0.0/16")}))
		for range 2 {
			foreign(t, f, func(m *message) {
				m.beginPeer(parkingKey(), 0)
				for i := range 120 { // more than a message of the dump
					m.addAllowed(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, byte(i), 0}), 24), 0)
				}
			})
		}
		d.stats.forget()
		if stats, err := d.Stats(t.Context()); err != nil || len(stats) != 1 {
			t.Errorf("statistics %v, %v, want one peer", stats, err)
		}
		if list, err := d.AllowedIPs(t.Context()); err != nil || !slices.Equal(list, wgtest.Allowed("a", "10.1.0.0/16")) {
			t.Errorf("allowed-IPs %v, %v", list, err)
		}
		next := newDevice(config("wg0", "self"), Options{}, f, fakeLinks{f}, &capability{})
		next.index = fakeIndex
		must(t, next.adopt(t.Context(), config("wg0", "self"), false))
		noParking(t, f)
		if len(f.peers) != 1 || len(f.owner) != 1 {
			t.Errorf("%d peers and %d entries, want one of each", len(f.peers), len(f.owner))
		}
	})
}

// Adoption writes what differs, and nothing if nothing does.
func TestAdoptWritesDifferences(t *testing.T) {
	f := newFakeKernel(true)
	d := fakeDevice(t, f, Options{})
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a"), wgtest.Peer("b")}, Allow: wgtest.Allowed("a", "10.1.0.0/16")}))
	var next *Device
	for _, c := range []struct {
		name    string
		edit    func(c *wg.DeviceConfig)
		ours    bool
		sets    int
		refused bool
	}{
		{name: "nothing", edit: func(*wg.DeviceConfig) {}},
		{name: "port and mark", edit: func(c *wg.DeviceConfig) { c.ListenPort, c.FirewallMark = 51820, 0x51 }, sets: 1},
		{name: "the same port, no mark", edit: func(c *wg.DeviceConfig) { c.ListenPort = 51820 }, sets: 1},
		{name: "any port", edit: func(*wg.DeviceConfig) {}},
		{name: "another key", edit: func(c *wg.DeviceConfig) { c.PrivateKey = wgtest.PrivateKey("b") }, refused: true},
		{name: "another key of ours", edit: func(c *wg.DeviceConfig) { c.PrivateKey = wgtest.PrivateKey("b") }, ours: true, sets: 1},
	} {
		cfg := config("wg0", "self")
		c.edit(&cfg)
		f.sets = 0
		next = newDevice(cfg, Options{}, f, fakeLinks{f}, &capability{})
		next.index = fakeIndex
		if err := next.adopt(t.Context(), cfg, c.ours); errors.Is(err, wg.ErrLinkExists) != c.refused || !c.refused && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if f.sets != c.sets {
			t.Errorf("%s: %d messages, want %d", c.name, f.sets, c.sets)
		}
		if c.refused {
			continue
		}
		if !f.private.Equal(cfg.PrivateKey) || f.mark != cfg.FirewallMark || cfg.ListenPort != 0 && f.port != cfg.ListenPort {
			t.Errorf("%s: port %d, mark %#x", c.name, f.port, f.mark)
		}
	}
	wantOwner(t, f, "a", "10.1.0.0/16")
	if f.peer(wgtest.Peer("b").PublicKey) != nil {
		t.Error("the device is its own peer")
	}
	if err := next.Apply(t.Context(), wg.Delta{Allow: wgtest.Allowed("b", "10.2.0.0/16")}); !errors.Is(err, wg.ErrNoPeer) {
		t.Errorf("a prefix for the device itself: %v, want ErrNoPeer", err)
	}
	if stats, err := next.Stats(t.Context()); err != nil || len(stats) != 1 {
		t.Errorf("statistics %v, %v, want one peer", stats, err)
	}
}

package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sitewire/bgp/bgptest"
	"sitewire/bgp/policy"
	"sitewire/routes"
)

const (
	ownASN  = 65000
	patient = 15 * time.Second
)

var (
	routerID = netip.MustParseAddr("10.255.0.1")
	speaker  = netip.MustParseAddr("127.0.0.1")
)

// feed is a Sink that remembers.
type feed struct {
	mu     sync.Mutex
	paths  map[string]map[netip.Prefix]routes.Path
	best   map[netip.Prefix][]routes.BestChange
	eor    map[string]uint32 // "name family" to session
	losses []routes.Loss
	// order notes what came after what: "path NAME PREFIX", "gone …", "best …", "unbest …", "eor …", "lost …", "reachable NAME true".
	order []string
	// reachable is what was said last.
	reachable map[string]bool
	changed   chan struct{}
}

func newFeed() *feed {
	return &feed{
		paths: map[string]map[netip.Prefix]routes.Path{}, best: map[netip.Prefix][]routes.BestChange{},
		eor: map[string]uint32{}, changed: make(chan struct{}), reachable: map[string]bool{},
	}
}

func (f *feed) note(format string, args ...any) {
	f.order = append(f.order, fmt.Sprintf(format, args...))
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) PutPath(n string, p netip.Prefix, path *routes.Path) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.paths[n] == nil {
		f.paths[n] = map[netip.Prefix]routes.Path{}
	}
	if path == nil {
		delete(f.paths[n], p)
		f.note("gone %s %v", n, p)
		return
	}
	f.paths[n][p] = *path
	f.note("path %s %v", n, p)
}

func (f *feed) PutBest(changes ...routes.BestChange) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		list := slices.DeleteFunc(f.best[c.Prefix], func(o routes.BestChange) bool { return o.Neighbour == c.Neighbour })
		switch {
		case c.Withdrawn:
			f.note("unbest %s %v", c.Neighbour, c.Prefix)
		case c.Replace:
			list = []routes.BestChange{c}
			f.note("best %s %v", c.Neighbour, c.Prefix)
		default:
			list = append(list, c)
			f.note("best %s %v", c.Neighbour, c.Prefix)
		}
		if len(list) == 0 {
			delete(f.best, c.Prefix)
		} else {
			f.best[c.Prefix] = list
		}
	}
}

func (f *feed) PutEndOfRIB(n string, family routes.Family, session uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.eor[fmt.Sprint(n, " ", family)] = session
	for p, path := range f.paths[n] {
		if routes.FamilyOf(p) == family && path.Session < session {
			delete(f.paths[n], p)
		}
	}
	f.note("eor %s %v", n, family)
}

func (f *feed) PutLoss(n string, kind routes.LossKind, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.losses = append(f.losses, routes.Loss{Of: n, Kind: kind, At: at})
	f.note("lost %s %v", n, kind)
}

func (f *feed) PutReachable(n string, is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reachable[n] = is
	f.note("reachable %s %t", n, is)
}

// wait returns when the condition holds.
func (f *feed) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(patient)
	for {
		f.mu.Lock()
		holds, changed := ok(), f.changed
		f.mu.Unlock()
		if holds {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			f.mu.Lock()
			defer f.mu.Unlock()
			tail := f.order[max(0, len(f.order)-30):]
			t.Fatalf("%s: not within %v; last events:\n%s", what, patient, strings.Join(tail, "\n"))
		}
	}
}

// path returns the neighbour's path, or nil. For use in wait.
func (f *feed) path(n, p string) *routes.Path {
	if path, ok := f.paths[n][netip.MustParsePrefix(p)]; ok {
		return &path
	}
	return nil
}

// verdict tells why the neighbour's path is rejected, "" if it is not; "no path" if there is none. For use in wait.
func (f *feed) verdict(n, p string) string {
	if path := f.path(n, p); path != nil {
		return path.Rejected
	}
	return "no path"
}

func (f *feed) bestOf(p string) string {
	var names []string
	for _, c := range f.best[netip.MustParsePrefix(p)] {
		names = append(names, c.Neighbour)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// lab is a speaker on the loopback with raw peers around it.
type lab struct {
	t *testing.T
	*Speaker
	feed   *feed
	port   uint16
	config Config
	// end stops the speaker and waits until it has ended.
	end func()
}

func accepting() *policy.Policy {
	return &policy.Policy{Name: "all", Import: []policy.Rule{{Name: "all", Action: policy.Accept}}, Export: []policy.Rule{{Name: "all", Action: policy.Accept}}}
}

// passive is a neighbour that dials us from 127.0.0.x, on the LAN.
func passive(name string, x byte, asn uint32, p *policy.Policy) Neighbour {
	return Neighbour{
		Name: name, Address: netip.AddrFrom4([4]byte{127, 0, 0, x}), ASN: asn, Passive: true, IPv4: true, IPv6: true, Policy: p,
		LocalIPv6: netip.MustParseAddr("fd00::1"),
		// A loopback address is no next hop: the peers have another one.
		RemoteIPv4: hop4(x), RemoteIPv6: hop6(x),
	}
}

func hop4(x byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, x}) }

func hop6(x byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfd, 15: x})
}

func newLab(t *testing.T, neighbours ...Neighbour) *lab {
	t.Helper()
	return startLab(t, Config{ASN: ownASN, RouterID: routerID, Neighbours: neighbours})
}

func startLab(t *testing.T, c Config) *lab {
	t.Helper()
	return startLabWith(t, c, func(*Options) {})
}

func startLabWith(t *testing.T, c Config, more func(*Options)) *lab {
	t.Helper()
	return runLab(t, c, more, nil)
}

// runLab starts a speaker, as a restarted one if restart is not nil.
func runLab(t *testing.T, c Config, more func(*Options), restart *Restart) *lab {
	t.Helper()
	c.ListenPort = freePort(t)
	l := &lab{t: t, feed: newFeed(), port: uint16(c.ListenPort), config: c}
	o := Options{Config: c, Sink: l.feed, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))}
	more(&o)
	l.Speaker = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, restart) }()
	l.end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(4 * patient):
			pprof.Lookup("goroutine").WriteTo(t.Output(), 2)
			t.Errorf("Run did not end within %v", 4*patient)
		}
	})
	t.Cleanup(func() {
		l.end()
		if l.left != nil { // it would read what the GoBGP of the next test writes
			l.left.Stop()
		}
	})
	select {
	case <-l.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	case <-time.After(patient):
		t.Fatal("not ready")
	}
	return l
}

// freePort returns a port below those that the kernel gives to outgoing connections: other tests of the machine may take
// one of these at any time.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20000 + (os.Getpid()*31+int(ports.Add(1)))%10000
		if ln, err := net.Listen("tcp", ":"+strconv.Itoa(port)); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// ports counts what freePort tried.
var ports atomic.Int32

func (l *lab) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	l.t.Cleanup(cancel)
	return ctx
}

// options of a raw peer at 127.0.0.x.
func (l *lab) options(x byte, asn uint32) bgptest.Options {
	return bgptest.Options{
		Local: netip.AddrFrom4([4]byte{127, 0, 0, x}), Remote: netip.AddrPortFrom(speaker, l.port), ASN: asn, IPv4: true, IPv6: true,
	}
}

func (l *lab) dial(o bgptest.Options) *bgptest.Peer {
	l.t.Helper()
	p, err := bgptest.Dial(l.context(), o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(p.Close)
	return p
}

// ended waits until the other side has closed the raw peer's session.
func (l *lab) ended(p *bgptest.Peer) {
	l.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patient):
		pprof.Lookup("goroutine").WriteTo(l.t.Output(), 2)
		l.t.Fatalf("the session was not closed within %v: %+v", patient, l.Snapshot().Sessions)
	}
}

func (l *lab) peer(x byte, asn uint32) *bgptest.Peer {
	l.t.Helper()
	return l.dial(l.options(x, asn))
}

// session waits for a snapshot in which the neighbour's session is as wanted.
func (l *lab) session(name, what string, ok func(Session) bool) Session {
	l.t.Helper()
	timeout := time.After(patient)
	for {
		for _, s := range l.Snapshot().Sessions {
			if s.Name == name && ok(s) {
				return s
			}
		}
		select {
		case <-l.Changed():
		case <-time.After(50 * time.Millisecond):
		case <-timeout:
			l.t.Fatalf("%s: not %s within %v: %+v", name, what, patient, l.Snapshot().Sessions)
		}
	}
}

func (l *lab) set(change func(*Config)) {
	l.t.Helper()
	c := l.config
	c.Neighbours = slices.Clone(c.Neighbours)
	change(&c)
	if err := l.Set(l.context(), c); err != nil {
		l.t.Fatal(err)
	}
	l.config = c
}

func announce(t *testing.T, p *bgptest.Peer, u bgptest.Update, prefixes ...string) {
	t.Helper()
	for _, s := range prefixes {
		u.Prefixes = append(u.Prefixes, netip.MustParsePrefix(s))
	}
	if err := p.Announce(u); err != nil {
		t.Fatal(err)
	}
}

func withdraw(t *testing.T, p *bgptest.Peer, prefixes ...string) {
	t.Helper()
	var list []netip.Prefix
	for _, s := range prefixes {
		list = append(list, netip.MustParsePrefix(s))
	}
	if err := p.Withdraw(list...); err != nil {
		t.Fatal(err)
	}
}

// from4 is an UPDATE from 127.0.0.x with its own next hop.
func from4(x byte, path ...uint32) bgptest.Update {
	return bgptest.Update{ASPath: path, NextHop: []netip.Addr{hop4(x)}}
}

// gets waits until the raw peer has the prefix, and returns it; absent waits until it has not.
func (l *lab) gets(p *bgptest.Peer, prefix string) bgptest.Received {
	l.t.Helper()
	q := netip.MustParsePrefix(prefix)
	if err := p.Wait(l.context(), func(m map[netip.Prefix]bgptest.Received) bool { _, ok := m[q]; return ok }); err != nil {
		l.t.Fatalf("waiting for %v: %v; have %v", q, err, p.Routes())
	}
	return p.Routes()[q]
}

func (l *lab) absent(p *bgptest.Peer, prefix string) {
	l.t.Helper()
	q := netip.MustParsePrefix(prefix)
	if err := p.Wait(l.context(), func(m map[netip.Prefix]bgptest.Received) bool { _, ok := m[q]; return !ok }); err != nil {
		l.t.Fatalf("waiting for %v to go: %v; have %v", q, err, p.Routes())
	}
}

// gobgpRaces skips what makes GoBGP v4.8.0 race with itself, which the race detector sees.
func gobgpRaces(t *testing.T, name, why string) {
	t.Helper()
	if raceEnabled {
		t.Skipf(`SKIP-REASON kind=race name=%s fix="go test without -race" why=%q`, name, "GoBGP v4.8.0 "+why)
	}
}

// staleMark is what it does when a neighbour restarts gracefully.
func staleMark(t *testing.T) {
	t.Helper()
	gobgpRaces(t, "gobgp-stale-mark", "marks paths stale while its watch goroutine reads the mark")
}

package probe

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == openArg {
		openUnprivileged()
	}
	nstest.Main(m)
}

// ends are the ways in which a tunnel can be numbered.
var ends = map[string][2]netip.Addr{
	"link-local": {netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2")},
	"ipv6":       {netip.MustParseAddr("fd00:1::1"), netip.MustParseAddr("fd00:1::2")},
	"ipv4":       {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
}

// links is a namespace with two devices that have the same addresses at both ends, as tunnels to different sites may.
// Only the device tells the neighbours apart.
type links struct {
	us, left, right *netns.NS
}

func newLinks(t *testing.T) *links {
	t.Helper()
	l := &links{nstest.NS(t, "us"), nstest.NS(t, "left"), nstest.NS(t, "right")}
	for dev, n := range map[string]*netns.NS{"wg-left": l.left, "wg-right": l.right} {
		var ours, theirs []netip.Prefix
		for _, e := range ends {
			bits := 64
			if e[0].Is4() {
				bits = 24
			}
			ours, theirs = append(ours, netip.PrefixFrom(e[0], bits)), append(theirs, netip.PrefixFrom(e[1], bits))
		}
		if err := netns.Link(l.us, dev, n, "wg0", netns.LinkOpts{AddrsA: ours, AddrsB: theirs}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// run probes from the namespace until the test ends. Sockets are opened by openIn.
func (l *links) run(t *testing.T, openIn func(v6 bool) (Wire, error)) *Prober {
	t.Helper()
	p := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Open: func(v6 bool) (w Wire, err error) {
		err = l.us.Do(func() error { w, err = openIn(v6); return err })
		return w, err
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return p
}

func quick(peer, dev string, end [2]netip.Addr) Target {
	return Target{
		Peer: peer, Device: dev, Local: end[0], Remote: end[1],
		Interval: 20 * time.Millisecond, Timeout: 20 * time.Millisecond, Met: true, Up: true, MTU: 1500,
	}
}

func of(p *Prober, peer string) *Stats {
	all := p.Snapshot()
	if i := slices.IndexFunc(all, func(s *Stats) bool { return s.Peer == peer }); i >= 0 {
		return all[i]
	}
	return &Stats{}
}

// await waits for the number of echoes with a known outcome.
func await(t *testing.T, p *Prober, peer string, echoes uint64) *Stats {
	t.Helper()
	nstest.Eventually(t, 20*time.Second, "echoes to "+peer, func() error {
		if s := of(p, peer); s.Sent < echoes {
			return errors.New("too few")
		}
		return nil
	})
	return of(p, peer)
}

// raw and ping are the two kinds of socket. In the lab we are root, so that Open takes a raw one.
func raw(v6 bool) (Wire, error)  { return open(v6, unix.SOCK_RAW) }
func ping(v6 bool) (Wire, error) { return open(v6, unix.SOCK_DGRAM) }

// TestSockets: with both kinds of socket and all kinds of addresses the right neighbour is asked, and its loss and
// silence are its own.
func TestSockets(t *testing.T) {
	nstest.Need(t)
	for kind, openIn := range map[string]func(bool) (Wire, error){"raw": raw, "ping": ping} {
		for name, end := range ends {
			t.Run(kind+"/"+name, func(t *testing.T) {
				l := newLinks(t)
				nstest.Run(t, l.us, "sysctl", "-w", "net.ipv4.ping_group_range=0 0")
				p := l.run(t, openIn)
				p.Set([]Target{quick("left", "wg-left", end), quick("right", "wg-right", end)})
				for _, peer := range []string{"left", "right"} {
					if s := await(t, p, peer, 20); s.Lost > 5 || s.Recent.Last == 0 { // the machine may be slow for a moment
						t.Errorf("%s: %+v", peer, s)
					}
				}
				if err := l.us.Cut("wg-right", netns.In); err != nil {
					t.Fatal(err)
				}
				time.Sleep(100 * time.Millisecond)
				left, right := of(p, "left"), of(p, "right")
				await(t, p, "left", left.Sent+50)
				await(t, p, "right", right.Sent+50)
				if s := of(p, "right"); s.Lost-right.Lost != s.Sent-right.Sent {
					t.Errorf("silent: %d of %d lost", s.Lost-right.Lost, s.Sent-right.Sent)
				}
				if s := of(p, "left"); s.Lost-left.Lost > 10 {
					t.Errorf("the other device: %d of %d lost", s.Lost-left.Lost, s.Sent-left.Sent)
				}
			})
		}
	}
}

// TestDeterministicLoss: one answer of five is dropped.
func TestDeterministicLoss(t *testing.T) {
	l := newLinks(t)
	p := l.run(t, Open)
	// Neighbour discovery first, whose packets would count too.
	p.Set([]Target{quick("left", "wg-left", ends["ipv4"])})
	await(t, p, "left", 5)
	nstest.Run(t, l.us, "nft", `table netdev loss {
		chain in { type filter hook ingress device "wg-left" priority 0; ip protocol icmp numgen inc mod 5 0 drop; }
	}`)
	before := of(p, "left")
	s := await(t, p, "left", before.Sent+200)
	lost, sent := s.Lost-before.Lost, s.Sent-before.Sent
	if ratio := float64(lost) / float64(sent); ratio < 0.19 || ratio > 0.25 {
		t.Errorf("%d of %d lost", lost, sent)
	}
}

// TestHole: a hole without ICMP errors is found over both families, and that the large packets do not look lost.
func TestHole(t *testing.T) {
	for _, name := range []string{"link-local", "ipv4"} {
		t.Run(name, func(t *testing.T) {
			l := newLinks(t)
			if err := l.left.Hole("wg0", netns.In, 1364); err != nil {
				t.Fatal(err)
			}
			p := l.run(t, Open)
			target := quick("left", "wg-left", ends[name])
			target.Interval, target.Timeout, target.PathMTU = time.Second, 100*time.Millisecond, true
			other := target
			other.Peer, other.Device = "right", "wg-right"
			p.Set([]Target{target, other})
			nstest.Eventually(t, 90*time.Second, "the search", func() error {
				if of(p, "left").PathMTU == 0 || of(p, "right").PathMTU == 0 {
					return errors.New("not found yet")
				}
				return nil
			})
			if got := of(p, "left").PathMTU; got != 1364 {
				t.Errorf("found %d with a hole at 1364", got)
			}
			if got := of(p, "right").PathMTU; got != 1500 {
				t.Errorf("found %d without a hole", got)
			}
			if s := of(p, "left"); s.Lost > s.Sent/4 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestSendErrors: what cannot be sent is lost, and says why.
func TestSendErrors(t *testing.T) {
	l := newLinks(t)
	p := l.run(t, Open)
	p.Set([]Target{quick("gone", "wg-gone", ends["ipv6"]), quick("left", "wg-left", [2]netip.Addr{netip.MustParseAddr("fd00:9::1"), ends["ipv6"][1]})})
	for peer, want := range map[string]string{"gone": "wg-gone: no such device", "left": "sendmsg"} {
		if s := await(t, p, peer, 5); s.Lost != s.Sent || !strings.Contains(s.Error, want) {
			t.Errorf("%s: %+v, want an error with %q", peer, s, want)
		}
	}
}

// openArg has this program open sockets and say what became of it.
const openArg = "open-sockets"

func openUnprivileged() {
	for _, v6 := range []bool{false, true} {
		_, err := Open(v6)
		if _, ok := errors.AsType[*OpenError](err); ok {
			os.Stdout.WriteString("refused: " + err.Error() + "\n")
			continue
		}
		if err != nil {
			os.Stdout.WriteString("another error: " + err.Error() + "\n")
			continue
		}
		os.Stdout.WriteString("opened\n")
	}
	os.Exit(0)
}

// TestUnprivileged: without CAP_NET_RAW a ping socket will do where the kernel gives one, and else the error says how to
// get either.
func TestUnprivileged(t *testing.T) {
	nstest.Need(t, nstest.Program("setpriv"))
	n := nstest.NS(t, "us")
	for groups, want := range map[string]string{"1 0": "refused", "0 0": "opened"} {
		nstest.Run(t, n, "sysctl", "-w", "net.ipv4.ping_group_range="+groups)
		// Without any capability, but still in the group that may ping.
		cmd := n.Command(t.Context(), "setpriv", "--inh-caps=-all", "--bounding-set=-all", "--ambient-caps=-all", os.Args[0], openArg)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if n := strings.Count(string(out), want); n != 2 {
			t.Errorf("ping_group_range %s, want %s for both families:\n%s", groups, want, out)
		}
		if want == "refused" && !strings.Contains(string(out), "CAP_NET_RAW") {
			t.Errorf("the error does not say what to do:\n%s", out)
		}
	}
}

package metrics

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sitewire/routes"
)

// storm is what the issue of too many readers looks like.
const (
	stormScrapes = 10_000
	stormAtOnce  = 200
)

// scrapeStorm makes scrapes as Prometheus does, many at once, and returns how many were answered, and with how many bytes.
func scrapeStorm(t testing.TB, url string, scrapes, atOnce int) (answered, bytes int64) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce, DisableCompression: true}}
	defer client.CloseIdleConnections()
	var next, ok, size atomic.Int64
	var group sync.WaitGroup
	for range atOnce {
		group.Go(func() {
			for next.Add(1) <= int64(scrapes) {
				req, err := http.NewRequest(http.MethodGet, url, nil)
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Accept", acceptOpenMetrics)
				req.Header.Set("Accept-Encoding", "gzip")
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("%s, %v", resp.Status, err)
					return
				}
				size.Add(n)
				ok.Add(1)
			}
		})
	}
	group.Wait()
	return ok.Load(), size.Load()
}

// listen serves a handler until the test ends and returns its address.
func listen(t testing.TB, h http.Handler) string {
	t.Helper()
	s := NewServer(ServerOptions{Listen: "127.0.0.1:0", Handler: h, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-s.Ready()
	return "http://" + s.Addr().String()
}

// Ten thousand scrapes, 200 at once, are all answered with a page.
func TestStorm(t *testing.T) {
	h := handler(t, gateway())
	if n, _ := scrapeStorm(t, listen(t, h)+"/metrics", stormScrapes, stormAtOnce); n != stormScrapes {
		t.Errorf("%d of %d answered", n, stormScrapes)
	}
}

// noKernel is a FIB and a set of tunnels that do everything at once and remember nothing.
type noKernel struct{ wrote chan struct{} }

func (k noKernel) Write(_ context.Context, ops []routes.Op) []error {
	for _, op := range ops {
		if op.Kind == routes.Install {
			select {
			case k.wrote <- struct{}{}:
			default:
			}
		}
	}
	return make([]error, len(ops))
}
func (noKernel) List(context.Context) ([]routes.Route, error)      { return nil, nil }
func (noKernel) Connected(context.Context) ([]routes.Route, error) { return nil, nil }
func (noKernel) Changed() <-chan struct{}                          { return nil }

type noTunnels struct{ noKernel }

func (noTunnels) List(context.Context) ([]routes.AllowedIP, error) { return nil, nil }

// loop is a running routes.Syncer with a thousand peers and a prefix of each, without a kernel.
type loop struct {
	syncer *routes.Syncer
	feed   *routes.Feed
	wrote  chan struct{}
	change int
}

const loopPeers = 1000

func loopPeer(i int) string { return fmt.Sprintf("branch-%04d", i%loopPeers) }

func loopPrefix(i int) netip.Prefix {
	i %= loopPeers
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
}

func newLoop(t testing.TB) *loop {
	t.Helper()
	l := &loop{feed: routes.NewFeed(), wrote: make(chan struct{}, 1)}
	l.syncer = routes.New(routes.Options{FIB: noKernel{l.wrote}, Tunnels: noTunnels{}, Feed: l.feed})
	p := routes.Policy{ReconcileEvery: time.Hour}
	for i := range loopPeers {
		p.Peers = append(p.Peers, routes.Peer{Name: loopPeer(i), Device: fmt.Sprintf("sw-%04d", i)})
		p.Neighbours = append(p.Neighbours, routes.Neighbour{Name: loopPeer(i), Peer: loopPeer(i)})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = l.syncer.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := l.syncer.SetPolicy(ctx, p); err != nil {
		t.Fatal(err)
	}
	for i := range loopPeers {
		for other := range 2 {
			l.feed.PutPath(loopPeer(i+other), loopPrefix(i), &routes.Path{Received: time.Now()})
		}
		l.feed.PutBest(routes.BestChange{Prefix: loopPrefix(i), Neighbour: loopPeer(i), Replace: true, At: time.Now()})
	}
	for l.syncer.Snapshot().Installed.Routes[0] < loopPeers {
		time.Sleep(time.Millisecond)
	}
	return l
}

// move lets one prefix go to another peer and returns the time from the Feed to the return of the last write.
func (l *loop) move() time.Duration {
	select {
	case <-l.wrote:
	default:
	}
	i := l.change
	l.change++
	start := time.Now()
	l.feed.PutBest(routes.BestChange{Prefix: loopPrefix(i), Neighbour: loopPeer(i + 1 + i/loopPeers), Replace: true, At: start})
	<-l.wrote
	return time.Since(start)
}

// moves makes changes, one after the other with pauses as in a quiet network, until something has ended.
func (l *loop) moves(until <-chan struct{}) []time.Duration {
	var took []time.Duration
	for {
		select {
		case <-until:
			return took
		case <-time.After(3 * time.Millisecond): // out of the fold window
			took = append(took, l.move())
		}
	}
}

// BenchmarkLoopUnderScrapes is how long a change takes from the Feed to the FIB with a thousand peers: in quiet, while 10,000 scrapes are made,
// 200 at once, and while a constant page of the same size is fetched as often. Readers, server and loop share the processors of one
// machine, so that both storms delay it; only what the scrapes add to the constant page would be a lock. So does the profile of
// the mutexes tell: how often anybody waited for one of package routes.
func BenchmarkLoopUnderScrapes(b *testing.B) {
	l := newLoop(b)
	f := large(loopPeers)
	source := f.source()
	source.Routes = l.syncer.Snapshot
	ours, err := Handler(HandlerOptions{
		Collector: NewCollector(CollectorOptions{Source: source, Log: slog.New(slog.DiscardHandler)}), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	page := make([]byte, 350<<10)
	constant := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) })
	phases := map[string]func(){
		"quiet":    func() { time.Sleep(5 * time.Second) },
		"scrapes":  storming(b, listen(b, ours)+"/metrics"),
		"constant": storming(b, listen(b, constant)),
	}
	for b.Loop() {
		p99 := map[string]time.Duration{}
		for _, name := range []string{"quiet", "constant", "scrapes"} {
			runtime.SetMutexProfileFraction(1)
			waits := contended("sitewire/routes.")
			over := make(chan struct{})
			start := time.Now()
			go func() { phases[name](); close(over) }()
			took := l.moves(over)
			slices.Sort(took)
			p99[name] = took[len(took)*99/100]
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), name+"-p50-µs")
			b.ReportMetric(float64(p99[name].Microseconds()), name+"-p99-µs")
			b.ReportMetric(time.Since(start).Seconds(), name+"-s")
			b.ReportMetric(float64(contended("sitewire/routes.")-waits), name+"-lock-waits")
			runtime.SetMutexProfileFraction(0)
		}
		b.ReportMetric(float64(p99["scrapes"])/float64(p99["constant"]), "p99-scrapes/constant")
	}
}

// storming makes a storm from a process of its own, as readers are.
func storming(b *testing.B, url string) func() {
	return func() {
		cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestStormFrom$")
		cmd.Env = append(os.Environ(), stormEnv+"="+url)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Errorf("%v\n%s", err, out)
		}
	}
}

// stormEnv makes TestStormFrom the readers of a storm against its value.
const stormEnv = "SITEWIRE_TEST_STORM"

// TestStormFrom is the readers' side of a storm that another process is under.
func TestStormFrom(t *testing.T) {
	url := os.Getenv(stormEnv)
	if url == "" {
		t.Skip(`SKIP-REASON kind=helper name=storm fix="go test ./metrics -bench LoopUnderScrapes" why="BenchmarkLoopUnderScrapes starts it"`)
	}
	if n, _ := scrapeStorm(t, url, stormScrapes, stormAtOnce); n != stormScrapes {
		t.Errorf("%d of %d answered", n, stormScrapes)
	}
}

// contended is how often goroutines had to wait for a mutex that was then unlocked in a function of a package, by whichever goroutine, while
// the profile was on.
func contended(pkg string) int64 {
	records := make([]runtime.BlockProfileRecord, 10_000)
	n, _ := runtime.MutexProfile(records)
	var count int64
	for _, r := range records[:min(n, len(records))] {
		frames := runtime.CallersFrames(r.Stack())
		for {
			frame, more := frames.Next()
			if strings.Contains(frame.Function, pkg) {
				count += r.Count
				break
			}
			if !more {
				break
			}
		}
	}
	return count
}

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sitewire/gateway"
	"sitewire/gateway/config"
	"sitewire/gateway/wg"
	"sitewire/topologies/netns/nstest"
)

// crowd is a gateway with many peers, each of which is a BGP neighbour. The first Live of them have a far end, with its
// tunnel and its session; the others are configured and wait for a peer that never calls, as a hub does for branches
// that are switched off.
type crowd struct {
	peers, live int
	shared      bool // one device for all, instead of one each
	silent      bool // those without a far end have a static prefix instead of a BGP session
	backend     config.Backend
	// rest is the time between the last session and the measurement at rest, which lasts window.
	rest, window time.Duration
	most         bounds
}

// bounds are what fails the benchmark. Memory and goroutines are about twice what was measured, times and the share of a core more: they catch
// what is out of proportion, not what is slow that day.
type bounds struct {
	ready, sessions, stop time.Duration
	startMiB, restMiB     float64 // resident when the sessions are up, and after the rest
	core                  float64 // percent of one core at rest
	goroutines            int
}

// firstPort is the UDP port of the first peer's own device.
const firstPort = 20000

// BenchmarkThousandPeers is a hub with 1,000 peers on one shared device, 100 of them alive.
func BenchmarkThousandPeers(b *testing.B) {
	crowd{
		peers: 1000, live: 100, shared: true, backend: config.BackendUserspace, rest: 25 * time.Second, window: 35 * time.Second,
		most: bounds{ready: 3 * time.Second, sessions: 20 * time.Second, stop: 5 * time.Second, startMiB: 1700, restMiB: 1300, core: 6, goroutines: 5000},
	}.run(b, newLab(b))
}

// BenchmarkManyDevices is a gateway with 200 peers on devices of their own, 50 of them alive.
func BenchmarkManyDevices(b *testing.B) {
	crowd{
		peers: 200, live: 50, backend: config.BackendUserspace, rest: 25 * time.Second, window: 35 * time.Second,
		most: bounds{ready: 3 * time.Second, sessions: 20 * time.Second, stop: 6 * time.Second, startMiB: 700, restMiB: 700, core: 4, goroutines: 4500},
	}.run(b, newLab(b))
}

// BenchmarkKernelDevices is a gateway with 1,000 peers on kernel devices of their own. Four are alive; the others have no BGP, because what
// GoBGP takes for 1,000 neighbours is not the point here, and is most of what a guest has.
func BenchmarkKernelDevices(b *testing.B) {
	crowd{
		peers: 1000, live: 4, silent: true, backend: config.BackendKernel, rest: 10 * time.Second, window: 20 * time.Second,
		most: bounds{ready: 2 * time.Minute, sessions: 3 * time.Minute, stop: 10 * time.Second, startMiB: 300, restMiB: 300, core: 80, goroutines: 150},
	}.run(b, newKernelLab(b))
}

func (c crowd) run(b *testing.B, l *lab) {
	h := &hub{site: l.site("hub"), inKernel: c.backend == config.BackendKernel, random: rand.New(rand.NewPCG(1, 2))}
	yaml := c.yaml(b, h)
	for b.Loop() {
		c.life(b, h, yaml)
	}
	b.ReportMetric(0, "ns/op") // nearly all of it is waiting
}

// yaml makes the far ends, and the configuration of the gateway that all of them are peers of.
func (c crowd) yaml(b *testing.B, h *hub) string {
	var yaml strings.Builder
	yaml.WriteString(h.head())
	fmt.Fprintf(&yaml, "  backend: %s\n", c.backend)
	if c.shared {
		fmt.Fprintf(&yaml, "  device: %s\n", hubDevice)
	}
	yaml.WriteString("bgp: { hold_time: 90s }\npeers:\n")
	for i := range c.peers {
		name, asn, port, own := fmt.Sprintf("branch-%04d", i), uint32(4242421000+i), uint16(51820), ""
		if !c.shared {
			port = uint16(firstPort + i)
			own = fmt.Sprintf(", listen_port: %d", port)
		}
		var key wg.PublicKey
		if i < c.live {
			s := h.spokeAt(i, port)
			s.name, s.asn = name, asn
			h.spokes = append(h.spokes, s)
			key = s.key.Public()
		} else {
			secret, err := wg.NewPrivateKey()
			must(b, err)
			key = secret.Public()
		}
		speaks := fmt.Sprintf("asn: %d, policy: hub", asn)
		if c.silent && i >= c.live {
			speaks = fmt.Sprintf("allowed_ips: [10.%d.%d.0/24]", 128+i/256, i%256)
		}
		fmt.Fprintf(&yaml, "  %s: { public_key: %s, %s%s }\n", name, key, speaks, own)
	}
	return yaml.String()
}

// life is one start, rest and stop of the daemon.
func (c crowd) life(b *testing.B, h *hub, yaml string) {
	ready := awaitReady(b, h.site)
	begin := time.Now()
	h.d = h.run(yaml)
	var got bounds
	select {
	case at := <-ready:
		got.ready = at.Sub(begin)
	case <-time.After(nstest.Patience(2 * time.Minute)):
		b.Fatal("the daemon did not say that it is ready")
	}
	var st gateway.Status
	must(b, h.d.get("/v1/status", &st))
	if st.Tunnels.All != c.peers {
		b.Fatalf("ready with %d tunnels of %d", st.Tunnels.All, c.peers)
	}
	for _, s := range h.spokes {
		h.connect(s)
	}
	nstest.Eventually(b, 2*time.Minute, "the sessions of those that are there", func() error {
		if err := h.d.get("/v1/status", &st); err != nil || st.Sessions.Up != c.live || st.Tunnels.Up != c.live {
			return errors.Join(err, fmt.Errorf("%d tunnels and %d sessions of %d are up", st.Tunnels.Up, st.Sessions.Up, c.live))
		}
		return nil
	})
	got.sessions = time.Since(begin)
	pid := h.d.cmd.Process.Pid
	got.startMiB = float64(residentKiB(b, pid)) / 1024
	started := cpuTime(b, pid)

	time.Sleep(c.rest)
	before, from := cpuTime(b, pid), time.Now()
	time.Sleep(c.window)
	got.core = 100 * (cpuTime(b, pid) - before).Seconds() / time.Since(from).Seconds()
	got.restMiB = float64(residentKiB(b, pid)) / 1024
	var err error
	got.goroutines, err = strconv.Atoi(value(b, scrape(b, h.ns), "go_goroutines"))
	must(b, err)
	b.ReportMetric(float64(statusKiB(b, pid, "VmHWM"))/1024, "MiB-peak")
	b.ReportMetric(started.Seconds(), "start-cpu-s")
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(b, err)
	b.ReportMetric(float64(len(files)), "files")
	must(b, h.d.get("/v1/status", &st))
	tunnels := gateway.Tally{Up: c.live, All: c.peers}
	sessions := tunnels
	if c.silent {
		sessions.All = c.live
	}
	if st.Tunnels != tunnels || st.Sessions != sessions {
		b.Errorf("at rest there are %+v tunnels and %+v sessions, want %+v and %+v", st.Tunnels, st.Sessions, tunnels, sessions)
	}
	begin = time.Now()
	h.d.stop()
	got.stop = time.Since(begin)
	c.judge(b, got)
}

// judge reports what was measured, and fails for what is beyond the bounds.
func (c crowd) judge(b *testing.B, got bounds) {
	for _, x := range []struct {
		unit      string
		got, most float64
	}{
		{"ready-s", got.ready.Seconds(), c.most.ready.Seconds()},
		{"sessions-s", got.sessions.Seconds(), c.most.sessions.Seconds()},
		{"stop-s", got.stop.Seconds(), c.most.stop.Seconds()},
		{"MiB-start", got.startMiB, c.most.startMiB},
		{"MiB-rest", got.restMiB, c.most.restMiB},
		{"%core", got.core, c.most.core},
		{"goroutines", float64(got.goroutines), float64(c.most.goroutines)},
	} {
		b.ReportMetric(x.got, x.unit)
		if x.got > x.most {
			b.Errorf("%d peers: %.1f %s, and at most %.1f are in proportion", c.peers, x.got, x.unit, x.most)
		}
	}
}

// awaitReady makes the socket that a daemon started next tells its state to, as systemd does (sd_notify(3)), and passes on when it said
// READY=1.
func awaitReady(t testing.TB, s *site) <-chan time.Time {
	t.Helper()
	path := filepath.Join(s.dir, "notify.sock")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	out := make(chan time.Time, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if strings.HasPrefix(string(buf[:n]), "READY=1") {
				out <- time.Now()
				return
			}
		}
	}()
	return out
}

// value is that of a series without labels, as text.
func value(t testing.TB, page, name string) string {
	t.Helper()
	for line := range strings.Lines(page) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no %s among the metrics", name)
	return ""
}

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/bgp"
	"sitewire/gateway/wg"
	"sitewire/routes"
	"sitewire/routes/routestest"
)

// ask sends a request to the API, past the socket.
func (r *rig) ask(method, path string) (status int, body string, header http.Header) {
	r.t.Helper()
	w := httptest.NewRecorder()
	(&API{Gateway: r.gw, Log: r.gw.log}).handler().ServeHTTP(w, httptest.NewRequestWithContext(r.t.Context(), method, path, nil))
	r.noSecrets(method+" "+path, w.Body.String())
	if !json.Valid(w.Body.Bytes()) {
		r.t.Errorf("%s %s: no JSON: %s", method, path, w.Body)
	}
	return w.Code, w.Body.String(), w.Header()
}

func (r *rig) get(path string) (int, string) {
	r.t.Helper()
	status, body, _ := r.ask("GET", path)
	return status, body
}

// site is a gateway in the middle of its life: a peer that is well, one that is dead, one that never called, a LAN
// neighbour whose session is down, and paths of all kinds.
const site = `
site: fra
asn: 4242420001
router_id: 172.20.1.1
announce: [172.20.1.0/27]
socket: DIR/sock
wireguard: { private_key: "${file:DIR/private.key}" }
peers:
  nyc:
    public_key: KEY(nyc)
    preshared_key: ${file:DIR/psk}
    endpoint: 192.0.2.1:51820
    asn: 4242420002
    tunnel: { local: fe80::1, remote: fe80::2 }
    policy: dn42
    allowed_ips: learned
  store:
    public_key: KEY(store)
    endpoint: 192.0.2.7:51820
    allowed_ips: [10.17.0.0/24]
  ams:
    public_key: KEY(ams)
    asn: 4242420003
    policy: dn42
neighbours:
  core:
    address: 10.0.0.2
    asn: 65000
    policy: lan
    password: ${file:DIR/password}
`

func newSite(t *testing.T) *rig {
	t.Helper()
	r := running(t, site)
	r.hear("wg-store", "store")
	r.after(200 * time.Second)
	r.hear("wg-nyc", "nyc")
	r.learn("nyc", "10.2.0.0/16")
	r.feed.PutPath("nyc", pfx("10.0.0.0/8"), &routes.Path{NextHop: ip("fe80::2%wg-nyc"), Rejected: "too_general", Received: time.Now(), Session: 1})
	r.feed.PutPath("core", pfx("10.66.0.0/16"), &routes.Path{NextHop: ip("10.0.0.2"), Rejected: "endpoint", Received: time.Now(), Session: 1})
	r.after(time.Second)
	since := time.Now().Add(-time.Minute)
	r.speaker.set(
		bgp.Session{Name: "ams", Peer: "ams", Tunnel: true, ASN: 4242420003, Address: ip("fe80::3%wg-ams"), State: bgp.Active, Since: since},
		bgp.Session{
			Name: "nyc", Peer: "nyc", Tunnel: true, ASN: 4242420002, Address: ip("fe80::2%wg-nyc"), State: bgp.Established, Since: since,
			EstablishedAt: since, Establishments: 1, RemoteRouterID: ip("172.20.2.1"), IPv4: &bgp.Counts{Received: 2, Accepted: 1, EOR: true},
			Warnings: []string{"IPv6 is held back: no next hop"},
		},
		bgp.Session{Name: "core", Peer: "core", ASN: 65000, Address: ip("10.0.0.2"), State: bgp.Active, Since: since, LastError: "connection refused"},
	)
	return r
}

// The shapes of all answers are held by files: they are what scripts rely on.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSite(t)
		defer r.stop(false)
		for name, path := range map[string]string{
			"healthz": "/v1/healthz", "status": "/v1/status", "peers": "/v1/peers", "bgp": "/v1/bgp", "config": "/v1/config",
			"routes": "/v1/routes", "explain": "/v1/explain?address=10.2.3.4", "explain-source": "/v1/explain?address=10.17.0.9",
		} {
			status, body := r.get(path)
			if status != 200 {
				t.Errorf("%s: status %d", path, status)
			}
			r.golden(name, body)
		}
		// What a reload would do, and what it did.
		r.write(replace(site, "10.17.0.0/24", "10.18.0.0/24", "    policy: lan\n", ""))
		_, body := r.get("/v1/diff")
		r.golden("diff", body)
		if r.gw.ConfigInfo().Generation != 1 {
			t.Error("a diff was applied")
		}
		other := filepath.Join(r.dir, "other.yaml")
		writeFile(t, other, strings.ReplaceAll(replace(oneStore, "KEY(store)", r.tunnel("store").PublicKey.String()), "DIR", r.dir))
		if status, body := r.get("/v1/diff?path=" + url.QueryEscape(other)); status != 200 || !strings.Contains(body, "peer nyc") {
			t.Errorf("diff with another file: %d %s", status, body)
		}
		status, body, _ := r.ask("POST", "/v1/reload")
		if status != 200 {
			t.Errorf("reload: %d", status)
		}
		r.golden("reload", body)
	})
}

func TestRouteFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSite(t)
		defer r.stop(false)
		for query, want := range map[string]string{
			"":                              "10.0.0.0/8 10.2.0.0/16 10.17.0.0/24 10.66.0.0/16 172.20.1.0/27",
			"?peer=nyc":                     "10.0.0.0/8 10.2.0.0/16",
			"?peer=store":                   "10.17.0.0/24",
			"?peer=nobody":                  "",
			"?rejected=1":                   "10.0.0.0/8 10.66.0.0/16",
			"?rejected=1&peer=core":         "10.66.0.0/16",
			"?prefix=10.0.0.0/8":            "10.0.0.0/8 10.2.0.0/16 10.17.0.0/24 10.66.0.0/16",
			"?prefix=10.2.3.4":              "10.2.0.0/16 10.0.0.0/8",
			"?prefix=10.2.3.4&rejected=yes": "10.0.0.0/8",
			"?prefix=10.17.0.0/25":          "",
			"?prefix=::/0":                  "",
		} {
			_, body := r.get("/v1/routes" + query)
			var got Routes
			if err := json.Unmarshal([]byte(body), &struct{ Routes *[]RouteInfo }{&got.Routes}); err != nil {
				t.Fatal(err)
			}
			var list []string
			for _, x := range got.Routes {
				if x.Prefix.Addr().Is4() { // derived tunnel addresses are not of interest
					list = append(list, x.Prefix.String())
				}
			}
			if s := strings.Join(list, " "); s != want {
				t.Errorf("%q: %s\nwant %s", query, s, want)
			}
		}
	})
}

func TestErrorsAreJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSite(t)
		defer r.stop(false)
		for _, test := range []struct {
			method, path string
			status       int
			want         string
		}{
			{"GET", "/v1/explain?address=nyc", 400, "address"},
			{"GET", "/v1/explain", 400, "address"},
			{"GET", "/v1/routes?prefix=10.0.0.0/99", 400, "10.0.0.0/99"},
			{"GET", "/v1/routes?prefix=x", 400, "x"},
			{"GET", "/v1/diff?path=/nonexistent/sitewire.yaml", 422, "/nonexistent/sitewire.yaml: "},
			{"GET", "/v1/nothing", 404, "/v1/nothing"},
			{"GET", "/", 404, "nothing at /"},
			{"POST", "/v1/status", 405, "use GET"},
			{"GET", "/v1/reload", 405, "use POST"},
			{"GET", "/v1/stop", 405, "use POST"},
			{"PUT", "/v1/stop", 405, "use POST"},
		} {
			status, body, header := r.ask(test.method, test.path)
			var e map[string]string
			if err := json.Unmarshal([]byte(body), &e); err != nil || len(e) != 1 {
				t.Errorf("%s %s: %s", test.method, test.path, body)
			}
			if status != test.status || !strings.Contains(e["error"], test.want) || header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: %d %s", test.method, test.path, status, body)
			}
		}
	})
}

// A file with mistakes is refused with their positions, and without its secrets.
func TestReloadOfABadFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSite(t)
		defer r.stop(false)
		r.journal.take()
		r.write(replace(site, "${file:DIR/password}", testPassword, "asn: 4242420003", "asm: 1"))
		status, body, _ := r.ask("POST", "/v1/reload")
		var e APIError
		if err := json.Unmarshal([]byte(body), &e); err != nil || status != 422 {
			t.Fatalf("%d %s", status, body)
		}
		path := filepath.Join(r.dir, "sitewire.yaml")
		line := slices.Index(strings.Split(site, "\n"), "    asn: 4242420003") + 1
		if want := path + ":" + strconv.Itoa(line) + ":5: "; !strings.Contains(e.Error, want) {
			t.Errorf("%q is not in\n%s", want, e.Error)
		}
		if s := r.gw.Status(); s.Config.LastError != e.Error || s.Config.Generation != 1 || s.Problems[0].Fix != "sitewire check "+path {
			t.Errorf("status %+v", s)
		}
		r.didInOrder("")
	})
}

func TestStopByAPI(t *testing.T) {
	for path, teardown := range map[string]bool{"/v1/stop": false, "/v1/stop?teardown=1": true} {
		synctest.Test(t, func(t *testing.T) {
			r := newSite(t)
			if status, body, _ := r.ask("POST", path); status != 200 || !strings.Contains(body, `"stopping": "yes"`) {
				t.Errorf("%d %s", status, body)
			}
			if err := <-r.ended; err != nil {
				t.Error(err)
			}
			if left := len(r.backend.names()) > 0; left == teardown {
				t.Errorf("%s: devices %v", path, r.backend.names())
			}
			if status, _, _ := r.ask("POST", "/v1/reload"); status != 503 {
				t.Errorf("reload after the end: %d", status)
			}
		})
	}
}

func newAPI(t *testing.T, path string) *API {
	t.Helper()
	r := newRig(t, oneStore)
	r.gw.beat.Store(time.Now().UnixNano())
	return &API{Gateway: r.gw, Path: path, Log: slog.New(slog.DiscardHandler)}
}

// startAPI serves an API on a real socket, once it answers.
func startAPI(t *testing.T, path string) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	a := newAPI(t, path)
	go func() { done <- a.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return func() error { cancel(); return <-done }
		}
		select {
		case err := <-done:
			t.Fatal(err)
		case <-deadline:
			t.Fatal("no answer")
		case <-tick.C:
		}
	}
}

func getSocket(t *testing.T, path string) (*http.Response, error) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	return c.Get("http://sitewire/v1/healthz")
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "sock")
	end := startAPI(t, path)
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Fatalf("mode %v, %v", fi.Mode(), err)
	}
	answer, err := getSocket(t, path)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	if answer.StatusCode != 200 || !strings.Contains(string(body), `"alive"`) {
		t.Errorf("%s %s", answer.Status, body)
	}

	// A second one does not take it away.
	if err := newAPI(t, path).Run(t.Context()); !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), path) {
		t.Errorf("second instance: %v", err)
	}
	if answer, err := getSocket(t, path); err != nil {
		t.Errorf("the first instance is gone: %v", err)
	} else {
		answer.Body.Close()
	}
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("end: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as a process that was killed
	l.Close()
	end := startAPI(t, path)
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFileIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	writeFile(t, path, "dear diary")
	if err := newAPI(t, path).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "dear diary" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

// Causes are named, and effects are not: the sessions behind dead tunnels say nothing new.
func TestProblems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSite(t)
		defer r.stop(false)
		s := r.gw.Status()
		down := r.tunnel("store").Since.Format(time.RFC3339)
		if diff := cmp.Diff([]Problem{
			{"ams", "tunnel has not come up: no handshake yet: waiting for the peer to call", "the peer has no endpoint here: the other end must call, or give it an `endpoint`"},
			{"store", "tunnel is down since " + down + ": nothing heard for over 3m0s", "look at the other end and at the path to 192.0.2.7:51820"},
			{"nyc", "IPv6 is held back: no next hop", ""},
			{"core", "BGP session is Active: connection refused", "sitewire bgp core"},
		}, s.Problems); diff != "" {
			t.Error(diff)
		}
		if s.Health != "degraded" || s.Tunnels != (Tally{Up: 1, All: 3}) || s.Sessions != (Tally{Up: 1, All: 3}) || s.Routes["ipv4"] != 1 || !s.Synced || s.Pending != 0 {
			t.Errorf("status %+v", s)
		}

		// What the kernel does not take is a problem after a while.
		r.world.OnFault(func(routes.Op) routestest.Fault { return routestest.Fault{Err: errTest} })
		r.learn("nyc", "10.3.0.0/16")
		if s := r.gw.Status(); len(s.Problems) != 4 || s.Pending != 1 {
			t.Errorf("pending %d, problems %v", s.Pending, s.Problems)
		}
		r.after(time.Minute)
		if s := r.gw.Status(); len(s.Problems) != 5 || s.Problems[4].Subject != "routes" || s.Synced {
			t.Errorf("problems %v", s.Problems)
		}
		r.world.OnFault(nil)
		r.after(time.Minute)

		r.hear("wg-ams", "ams")
		r.hear("wg-store", "store")
		r.hear("wg-nyc", "nyc")
		r.speaker.set(bgp.Session{Name: "core", Peer: "core", State: bgp.Established})
		if s := r.gw.Status(); s.Health != "ok" || len(s.Problems) != 0 {
			t.Errorf("status %+v", s)
		}

		// What an operator disabled is none.
		r.speaker.set(bgp.Session{Name: "core", Peer: "core", State: bgp.Idle, AdminDown: true, LastError: "sent Cease/Administrative Shutdown", Warnings: []string{"no policy"}})
		if s := r.gw.Status(); s.Health != "ok" || len(s.Problems) != 0 || s.Sessions != (Tally{Disabled: 1}) {
			t.Errorf("status %+v", s)
		}
	})
}

func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSite(t)
		defer r.stop(false)
		for addr, want := range map[string]string{
			"10.2.3.4":    "10.2.3.4 goes by 10.2.0.0/16 to nyc (tunnel up, heard from within 30 s): dev wg-nyc.",
			"10.66.1.1":   "10.66.1.1 matches 10.66.0.0/16, which is not installed: the path from core was rejected (endpoint).",
			"172.20.1.9":  "172.20.1.9 is in 172.20.1.0/27, which this site announces: it is ours.",
			"203.0.113.1": "nothing is known of 203.0.113.1: no neighbour announced a prefix that contains it.",
			"10.17.0.9":   "10.17.0.9 matches 10.17.0.0/24, which is not installed: the tunnel to store is down (nothing heard for over 3m0s).",
		} {
			e := r.gw.Explain(t.Context(), ip(addr))
			if e.Summary != want {
				t.Errorf("%s:\n got %s\nwant %s", addr, e.Summary, want)
			}
			if e.From == nil || e.Matches == nil {
				t.Errorf("%s: lists must be lists in JSON", addr)
			}
		}
		r.gw.o.KernelRoute = func(context.Context, netip.Addr) (string, bool, error) {
			return "10.2.3.0/24 dev eth1 proto static", false, nil
		}
		if got, want := r.gw.Explain(t.Context(), ip("10.2.3.4")).Summary, "But the kernel uses another route, which is not ours: 10.2.3.0/24 dev eth1 proto static."; !strings.HasSuffix(got, want) {
			t.Errorf("%s\nwant at its end %s", got, want)
		}
		r.gw.o.KernelRoute = nil
		e := r.gw.Explain(t.Context(), ip("10.2.3.4"))
		r.until("nyc", wg.TunnelDown)
		r.after(time.Second)
		dead := "10.2.3.4 matches 10.2.0.0/16, which is not installed: peer nyc is down."
		if got := r.gw.Explain(t.Context(), ip("10.2.3.4")).Summary; got != dead {
			t.Errorf("%s\nwant %s", got, dead)
		}
		if diff := cmp.Diff([]routes.AllowedIP{{Device: "wg-nyc", Prefix: pfx("10.2.0.0/16"), Peer: "nyc"}}, e.From, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Error(diff)
		}
		if len(e.Tunnels) != 1 || e.Tunnels[0].State != wg.TunnelUp {
			t.Errorf("tunnels %v", e.Tunnels)
		}
	})
}

// golden compares an answer with a file of testdata. What differs in every run is replaced.
func (r *rig) golden(name, got string) {
	r.t.Helper()
	got = strings.ReplaceAll(got, r.dir, "/etc/sitewire")
	for _, v := range []string{r.gw.ConfigInfo().Hash} {
		got = strings.ReplaceAll(got, v, "0123456789ab")
	}
	path := filepath.Join("testdata", "answers", name+".json")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		r.t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

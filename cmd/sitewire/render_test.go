package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sitewire/bgp"
	"sitewire/gateway"
	"sitewire/gateway/wg"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// throughJSON reads a value as the client does, over the wire.
func throughJSON[T any](t *testing.T, v any) (out T) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := decode(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRender(t *testing.T) {
	f := newFixture()
	peers := throughJSON[gateway.Peers](t, f.peers)
	sessions := throughJSON[gateway.Sessions](t, f.bgp)
	rs := throughJSON[gateway.Routes](t, f.routes).Routes
	healthy := f.status
	healthy.Health, healthy.Problems, healthy.Tunnels.Up, healthy.Sessions.Up, healthy.Pending = "ok", nil, 3, 3, 1
	refusedReload := f.status
	refusedReload.Synced = false
	refusedReload.Config.LastError = "/etc/sitewire/sitewire.yaml:7:3: unknown key \"pears\"\n    7 |   pears: {}"
	refusedReload.Config.RestartRequired = []string{"asn", "metrics.listen"}

	disabled := throughJSON[gateway.Sessions](t, f.bgp)
	off := &disabled.Sessions[1]
	off.AdminDown, off.State, off.LastError = true, bgp.Idle, "sent Cease/Administrative Shutdown"
	disabledPeers := throughJSON[gateway.Peers](t, f.peers).Peers
	disabledPeers[1].State = wg.TunnelUp
	disabledPeers[1].Sessions = []bgp.Session{*off}
	disabledStatus := healthy
	disabledStatus.Sessions = gateway.Tally{Up: 2, All: 2, Disabled: 1}

	for name, render := range map[string]func(io.Writer) error{
		"doctor":          func(w io.Writer) error { return renderDiagnosis(w, false, ailing(t.Context())) },
		"bgp-disabled":    func(w io.Writer) error { return renderSessions(w, false, disabled, now, true) },
		"peer-disabled":   func(w io.Writer) error { return renderPeer(w, false, disabledPeers[1], now) },
		"status-disabled": func(w io.Writer) error { return renderStatus(w, false, disabledStatus, disabledPeers, true) },
		"status":          func(w io.Writer) error { return renderStatus(w, false, f.status, peers.Peers, true) },
		"status-colour":   func(w io.Writer) error { return renderStatus(w, true, f.status, peers.Peers, true) },
		"status-ok":       func(w io.Writer) error { return renderStatus(w, false, healthy, nil, true) },
		"status-refused":  func(w io.Writer) error { return renderStatus(w, false, refusedReload, nil, true) },
		"peers":           func(w io.Writer) error { return renderPeers(w, false, peers.Peers, now, true) },
		"peers-plain":     func(w io.Writer) error { return renderPeers(w, false, peers.Peers, now, false) },
		"peer":            func(w io.Writer) error { return renderPeer(w, false, peers.Peers[0], now) },
		"peer-waiting":    func(w io.Writer) error { return renderPeer(w, false, peers.Peers[2], now) },
		"bgp":             func(w io.Writer) error { return renderSessions(w, false, sessions, now, true) },
		"routes": func(w io.Writer) error {
			return renderRoutes(w, false, slices.DeleteFunc(slices.Clone(rs), needsNone), now, true)
		},
		"routes-diverted": func(w io.Writer) error {
			x := slices.Clone(rs[:2])
			x[0].Installed, x[0].Diverted = "dev wg-sin", "dev wg-nyc"
			if err := renderRoutes(w, false, x, now, true); err != nil {
				return err
			}
			return renderDiversions(w, false, f.diversions, now)
		},
		"explain-diverted": func(w io.Writer) error {
			x := throughJSON[gateway.Explanation](t, f.explanation)
			x.Matches[0].Installed, x.Matches[0].Diverted = "dev wg-sin", "dev wg-nyc"
			x.Diversions = f.diversions[:1]
			return renderExplanation(w, false, x, now)
		},
		"routes-all":   func(w io.Writer) error { return renderRoutes(w, false, rs, now, true) },
		"rejected":     func(w io.Writer) error { return renderRejected(w, false, rs, now, true) },
		"route":        func(w io.Writer) error { return renderRouteBlocks(w, false, rs[1:2], now) },
		"route-blocks": func(w io.Writer) error { return renderRouteBlocks(w, false, rs[1:4], now) },
		"explain": func(w io.Writer) error {
			return renderExplanation(w, false, throughJSON[gateway.Explanation](t, f.explanation), now)
		},
		"explain-nothing": func(w io.Writer) error {
			return renderExplanation(w, false, gateway.Explanation{Summary: "Nothing is known of 192.0.2.99: no prefix contains it."}, now)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := render(&got); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "golden", name+".txt")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got.String()); d != "" {
				t.Errorf("%s (-want +got; -update rewrites it):\n%s", file, d)
			}
		})
	}
}

// failingWriter takes some bytes and then fails, like a pipe whose reader went away.
type failingWriter struct{ left int }

func (f *failingWriter) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

func TestRenderReportsWriteErrors(t *testing.T) {
	f := newFixture()
	peers := throughJSON[gateway.Peers](t, f.peers).Peers
	for _, left := range []int{0, 40, 700} {
		if err := renderStatus(&failingWriter{left}, false, f.status, peers, true); err == nil {
			t.Errorf("renderStatus into a pipe that breaks after %d bytes: no error", left)
		}
	}
	if err := renderExplanation(&failingWriter{100}, false, f.explanation, now); err == nil {
		t.Error("renderExplanation into a broken pipe: no error")
	}
}

func TestHuman(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{bytesText(0), "0 B"}, {bytesText(1023), "1023 B"}, {bytesText(1024), "1.00 KiB"}, {bytesText(1 << 62), "4.00 EiB"}, {shortBytes(1536), "1.50KiB"},
		{shortAge(-time.Second), "0s"}, {shortAge(59 * time.Second), "59s"}, {shortAge(64 * time.Second), "1m04s"},
		{shortAge(26 * time.Hour), "1d02h"}, {shortAge(3*time.Hour + 7*time.Minute), "3h07m"},
		{longAge(64 * time.Second), "1 minute, 4 seconds"}, {longAge(25*time.Hour + time.Minute), "1 day, 1 hour, 1 minute"}, {longAge(0), "0 seconds"},
		{ago(now, time.Time{}), "never"}, {ago(now, now), "now"}, {ago(now, before(2*time.Second)), "2 seconds ago"},
		{took(0), ""}, {took(0.00082), "820us"}, {took(0.0014), "1.4ms"}, {took(2.06), "2.1s"},
		{plural(1, "peer"), "1 peer"}, {plural(0, "peer"), "0 peers"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

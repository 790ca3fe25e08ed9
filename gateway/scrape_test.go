package gateway

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"sitewire/metrics"
)

// TestScrapeWhileLoopsStand: a scrape waits for none of the gateway's loops. Here the syncer stands in a write to a device, and the
// gateway's own loop in a reload that waits for the syncer; were there anything to wait for, this test would end in a deadlock.
func TestScrapeWhileLoopsStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, oneStore)
		h, err := metrics.Handler(metrics.HandlerOptions{
			Log: slog.New(slog.DiscardHandler),
			Collector: metrics.NewCollector(metrics.CollectorOptions{
				Log: slog.New(slog.DiscardHandler),
				Source: metrics.Source{
					Tunnels: r.gw.Tunnels, BGP: r.gw.Sessions, Routes: r.gw.Routing,
					Process: func() metrics.Process {
						return metrics.Process{Site: r.gw.Config().Site, Config: metrics.Config{Hash: r.gw.ConfigInfo().Hash, Reloads: r.gw.ReloadCounts().Reloads}}
					},
				},
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		scrape := func() string {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			if w.Code != 200 {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			return w.Body.String()
		}
		gate, standing := make(chan struct{}), false
		r.backend.failWith(func(op string) error {
			if strings.Contains(op, "10.18.0.0/24") {
				standing = true
				<-gate
			}
			return nil
		})
		reloaded := make(chan error, 1)
		r.write(replace(oneStore, "[10.17.0.0/24]", "[10.17.0.0/24, 10.18.0.0/24]"))
		go func() {
			_, err := r.gw.Reload(t.Context(), "api")
			reloaded <- err
		}()
		synctest.Wait()
		if !standing || len(reloaded) > 0 {
			t.Fatalf("the loops do not stand: written %v, reloaded %v", standing, len(reloaded) > 0)
		}
		for range 3 {
			if text := scrape(); !strings.Contains(text, `sitewire_tunnel_allowed_ips{family="ipv4",peer="store"} 1`) {
				t.Errorf("the prefix that is being written counts already, or none does:\n%s", text)
			}
		}
		close(gate)
		synctest.Wait()
		if err := <-reloaded; err != nil {
			t.Error(err)
		}
		if text := scrape(); !strings.Contains(text, `sitewire_tunnel_allowed_ips{family="ipv4",peer="store"} 2`) {
			t.Errorf("the new prefix is not there:\n%s", text)
		}
		if err := r.stop(false); err != nil {
			t.Error(err)
		}
	})
}

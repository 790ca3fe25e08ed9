package gateway

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// Requests count by route, method and status; what clients make up does not become a label.
func TestAPICounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, site)
		api := &API{Gateway: r.gw, Log: slog.New(slog.DiscardHandler)}
		h := api.handler()
		before := api.Stats()
		for call, n := range before.Calls {
			if n != 0 || call.Code != http.StatusOK {
				t.Errorf("before any request: %+v is %d", call, n)
			}
		}
		if _, ok := before.Calls[APICall{"/v1/reload", "POST", 200}]; !ok {
			t.Error("a known call does not start at 0")
		}
		want := map[APICall]uint64{
			{"/v1/status", "GET", 200}:  2,
			{"/v1/status", "HEAD", 200}: 1,
			{"/v1/status", "POST", 405}: 1,
			{"/v1/explain", "GET", 400}: 1,
			{"other", "GET", 404}:       2,
			{"other", "other", 404}:     1,
		}
		for _, ask := range [][2]string{
			{"GET", "/v1/status"}, {"GET", "/v1/status?x=1"}, {"HEAD", "/v1/status"}, {"POST", "/v1/status"}, {"GET", "/v1/explain?address=secret"},
			{"GET", "/"}, {"GET", "/v1/made/up"}, {"BREW", "/coffee"},
		} {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), ask[0], ask[1], nil))
		}
		got := api.Stats()
		for call, n := range got.Calls {
			if n != want[call] {
				t.Errorf("%+v: %d, want %d", call, n, want[call])
			}
			delete(want, call)
		}
		for call, n := range want {
			t.Errorf("%+v: not counted, want %d", call, n)
		}
		for route, n := range map[string]uint64{"/v1/status": 4, "other": 3, "/v1/peers": 0} {
			if d, ok := got.Durations[route]; !ok || d.Count != n {
				t.Errorf("%s: %d durations, want %d", route, d.Count, n)
			}
		}
	})
}

// A handler that panics counts as the 500 that it should have been, with the time that it took.
func TestAPICountsPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c apiCounters
		mux := http.NewServeMux()
		mux.HandleFunc("GET /boom", func(http.ResponseWriter, *http.Request) {
			time.Sleep(time.Second)
			panic("boom")
		})
		c.expect("/boom", "GET")
		func() {
			defer func() { _ = recover() }()
			c.counted(mux).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/boom", nil))
		}()
		s := c.load()
		if s.Calls[APICall{"/boom", "GET", 500}] != 1 || s.Durations["/boom"].Sum != 1 {
			t.Errorf("%+v", s)
		}
	})
}

package gateway

import (
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"sitewire/routes"
)

// otherRoute is the route of requests for what the API does not have, and otherMethod the method that HTTP does not have
// (RFC 9110 section 9): what a client makes up is no label.
const otherRoute, otherMethod = "other", "other"

// APICall is what requests to the API are counted by.
type APICall struct {
	Route  string // as registered ("/v1/explain"), never the path itself, or "other"
	Method string // of RFC 9110 and RFC 5789, or "other"
	Code   int    // of the answer
}

// APIStats tell how the API is used. Calls that are known beforehand are there from the start. The maps are the caller's.
type APIStats struct {
	Calls map[APICall]uint64
	// Durations by route, from the request's headers to the end of the answer.
	Durations map[string]routes.Histogram
}

// apiCounters count requests; the zero value is ready. Requests come from many goroutines: its mutex guards it.
type apiCounters struct {
	mu        sync.Mutex
	calls     map[APICall]uint64
	durations map[string]*routes.Histogram
}

// expect begins counting a route and its method at 0.
func (c *apiCounters) expect(route, method string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls, c.durations = map[APICall]uint64{}, map[string]*routes.Histogram{}
	}
	if method != "" {
		c.calls[APICall{route, method, http.StatusOK}] += 0
	}
	if c.durations[route] == nil {
		c.durations[route] = &routes.Histogram{}
	}
}

func (c *apiCounters) note(call APICall, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[call]++
	c.durations[call.Route].Observe(took)
}

func (c *apiCounters) load() APIStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := APIStats{Calls: maps.Clone(c.calls), Durations: make(map[string]routes.Histogram, len(c.durations))}
	for route, h := range c.durations {
		out.Durations[route] = h.Copy()
	}
	return out
}

// counted makes a handler out of a mux, all of whose routes were expected.
func (c *apiCounters) counted(mux *http.ServeMux) http.Handler {
	c.expect(otherRoute, "")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, answer := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusInternalServerError}
		defer func() { // a handler that panics counts too
			c.note(APICall{route(r.Pattern), method(r.Method), answer.status}, time.Since(start))
		}()
		mux.ServeHTTP(answer, r)
	})
}

// route is the path of a pattern of the mux ("GET /v1/status", "/v1/status").
func route(pattern string) string {
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	if pattern == "" || pattern == "/" {
		return otherRoute
	}
	return pattern
}

func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m
	}
	return otherMethod
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

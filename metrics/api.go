package metrics

import (
	"strconv"

	"sitewire/routes"
)

// APICall is what requests to the daemon's own API are counted by: the route as registered, the method, and the status.
type APICall struct {
	Route, Method string
	Code          int
}

// API tells how the daemon's own API is used. The maps must not change once handed over.
type API struct {
	Calls     map[APICall]uint64
	Durations map[string]routes.Histogram // by route
}

// apiMetrics is the group of the daemon's own API.
type apiMetrics struct {
	requests, duration *metric
}

func newAPIMetrics(c *catalogue) *apiMetrics {
	c.group("API")
	return &apiMetrics{
		requests: c.counter("api_requests_total", "Requests to the API on the daemon's socket.", "route", "method", "code"),
		duration: c.histogram("api_request_duration_seconds", "Time from a request's headers to the end of the answer.", "route"),
	}
}

func (a *apiMetrics) collect(e *emitter, s *scrape) {
	for call, n := range s.api.Calls {
		e.counter(a.requests, n, call.Route, call.Method, strconv.Itoa(call.Code))
	}
	for route, h := range s.api.Durations {
		e.routesHistogram(a.duration, &h, route)
	}
}

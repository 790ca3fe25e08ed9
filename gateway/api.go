package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"sitewire/gateway/config"
)

// API serves HTTP with JSON on a unix socket that only its owner can open.
//
// Owner: its Run goroutine. It holds no state of its own but counters: every answer comes from the gateway's snapshots.
type API struct {
	Gateway *Gateway
	Path    string // of the socket
	Log     *slog.Logger

	counters apiCounters
}

// Stats returns how the API was used so far.
func (a *API) Stats() APIStats { return a.counters.load() }

func (a *API) String() string { return "api" }

// Run listens until ctx ends.
func (a *API) Run(ctx context.Context) error {
	l, err := listenUnix(ctx, a.Path)
	if err != nil {
		return fmt.Errorf("api socket %s: %w", a.Path, err)
	}
	s := &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      60 * time.Second,
		ErrorLog:          slog.NewLogLogger(a.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(stopped)
		quick, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if s.Shutdown(quick) != nil {
			s.Close()
		}
	})
	err = s.Serve(l)
	if !unwatch() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return err
}

// ErrRunning says that another gateway answers on the socket.
var ErrRunning = errors.New("another sitewire answers there: stop it first, or choose another `socket`")

// listenUnix makes the socket with mode 0600. One that nobody answers on is left over and replaced.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, errors.New("there is a file of that name that is not a socket")
		}
		var d net.Dialer
		if c, err := d.DialContext(ctx, "unix", path); err == nil {
			c.Close()
			return nil, ErrRunning
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// The mode must hold from the first moment on, hence the umask and not a chmod afterwards. It is the process's:
	// this runs before anything else makes files.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return (&net.ListenConfig{}).Listen(ctx, "unix", path)
}

func (a *API) handler() http.Handler {
	g, mux := a.Gateway, http.NewServeMux()
	handle := func(method, path string, f func(*http.Request) (any, error)) {
		a.counters.expect(path, method)
		mux.HandleFunc(method+" "+path, answer(f))
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { // any other method
			w.Header().Set("Allow", method)
			answer(func(*http.Request) (any, error) {
				return nil, httpError{http.StatusMethodNotAllowed, fmt.Errorf("%s %s: use %s", r.Method, path, method)}
			})(w, r)
		})
	}
	get := func(path string, f func(*http.Request) (any, error)) { handle(http.MethodGet, path, f) }
	mux.HandleFunc("/", answer(func(r *http.Request) (any, error) {
		return nil, httpError{http.StatusNotFound, fmt.Errorf("there is nothing at %s", r.URL.Path)}
	}))
	get("/v1/healthz", func(*http.Request) (any, error) {
		if age := time.Since(g.Heartbeat()); age > 30*time.Second {
			return nil, httpError{http.StatusServiceUnavailable, fmt.Errorf("the gateway's loop has not turned for %s", age.Round(time.Second))}
		}
		return map[string]string{"api_version": APIVersion, "health": "alive"}, nil
	})
	get("/v1/status", func(*http.Request) (any, error) { return g.Status(), nil })
	get("/v1/peers", func(*http.Request) (any, error) { return g.Peers(), nil })
	get("/v1/bgp", func(*http.Request) (any, error) { return g.BGP(), nil })
	get("/v1/rpki", func(*http.Request) (any, error) { return g.RPKI(), nil })
	get("/v1/routes", func(r *http.Request) (any, error) {
		f := RouteFilter{Peer: r.FormValue("peer"), Rejected: r.FormValue("rejected") != ""}
		if s := r.FormValue("prefix"); s != "" {
			p, err := parsePrefix(s)
			if err != nil {
				return nil, httpError{http.StatusBadRequest, err}
			}
			f.Prefix = p
		}
		return g.Routes(f), nil
	})
	get("/v1/explain", func(r *http.Request) (any, error) {
		addr, err := netip.ParseAddr(r.FormValue("address"))
		if err != nil {
			return nil, httpError{http.StatusBadRequest, fmt.Errorf("address: %w", err)}
		}
		return g.Explain(r.Context(), addr.Unmap()), nil
	})
	get("/v1/config", func(*http.Request) (any, error) {
		return map[string]any{"api_version": APIVersion, "config": string(g.Config().Canonical()), "info": g.ConfigInfo()}, nil
	})
	get("/v1/diff", func(r *http.Request) (any, error) {
		path := r.FormValue("path")
		if path == "" {
			path = g.Config().Path
		}
		cfg, err := g.o.Load(path)
		if err != nil {
			return nil, httpError{http.StatusUnprocessableEntity, err}
		}
		d := Diff{APIVersion: APIVersion, Changes: changeLines(g.Config(), cfg), RestartRequired: config.RestartKeys(g.Config(), cfg)}
		for _, w := range cfg.Warnings {
			d.Warnings = append(d.Warnings, w.String())
		}
		return d, nil
	})
	handle(http.MethodPost, "/v1/reload", func(r *http.Request) (any, error) {
		changes, err := g.Reload(r.Context(), "api")
		switch {
		case errors.Is(err, ErrEnded):
			return nil, httpError{http.StatusServiceUnavailable, err}
		case err != nil:
			return nil, httpError{http.StatusUnprocessableEntity, err}
		}
		return Reload{APIVersion: APIVersion, Changes: changes, Config: g.ConfigInfo()}, nil
	})
	handle(http.MethodPost, "/v1/stop", func(r *http.Request) (any, error) {
		teardown := r.FormValue("teardown") != ""
		a.Log.Info("stop asked for", "teardown", teardown)
		g.Stop(teardown)
		return map[string]string{"api_version": APIVersion, "stopping": "yes"}, nil
	})
	return a.counters.counted(mux)
}

// httpError is an error with the status that it is answered with.
type httpError struct {
	status int
	error
}

func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		v, err := f(r)
		status := http.StatusOK
		if err != nil {
			status = http.StatusInternalServerError
			if he, ok := errors.AsType[httpError](err); ok {
				status = he.status
			}
			v = APIError{Error: err.Error()}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false) // nobody puts this into a page
		_ = e.Encode(v)        // the client is gone: nobody to tell
	}
}

// parsePrefix accepts an address as its host prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

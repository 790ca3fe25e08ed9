package metrics

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/netutil"
)

// DefaultListen is where metrics are served unless configured otherwise: they tell who the peers are, so not to
// everyone. It is the configuration's default too.
const DefaultListen = "127.0.0.1:9587"

// Limits of the HTTP side. A scrape that takes longer than Prometheus' usual timeout of 10 s is worth nothing, and a
// client that reads slowly must not hold memory for longer.
const (
	// maxConnections are more than requests that are served at a time, so that idle connections do not keep scrapes out, and far fewer
	// than files that a process may open: those are the gateway's.
	maxConnections = 2 * maxRequests
	readTimeout    = 5 * time.Second
	writeTimeout   = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeader      = 16 << 10 // bytes
	stopTimeout    = time.Second
	retryFirst     = time.Second
	retryMax       = time.Minute
)

// ServerOptions for NewServer.
type ServerOptions struct {
	// Listen is host:port; empty is DefaultListen.
	Listen  string
	Handler http.Handler
	// WebConfig is the path of a web configuration file for TLS and authentication; empty is neither. The file is read again for each
	// request and each handshake, so that renewed certificates and changed passwords need no restart; while it is not valid, nothing is served.
	WebConfig string
	Log       *slog.Logger
}

// Server is the task that serves metrics over TCP.
type Server struct {
	listen  string
	config  string
	handler http.Handler
	log     *slog.Logger
	ready   chan struct{}
	addr    atomic.Pointer[net.Addr]

	write, retry time.Duration
}

// NewServer makes a server that does not listen yet.
func NewServer(o ServerOptions) *Server {
	s := &Server{listen: o.Listen, config: o.WebConfig, handler: o.Handler, log: o.Log, ready: make(chan struct{}), write: writeTimeout, retry: retryFirst}
	if s.listen == "" {
		s.listen = DefaultListen
	}
	return s
}

func (s *Server) String() string { return "metrics" }

// Ready is closed once the server listens. That may be never (see Run), so nothing that forwards packets should wait
// for it.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr is the address that the server listens on, nil before Ready.
func (s *Server) Addr() net.Addr {
	if a := s.addr.Load(); a != nil {
		return *a
	}
	return nil
}

// Run serves until ctx ends, and then gives running scrapes a moment to finish. An address that cannot be listened on
// is tried again for ever, and so is a web configuration that cannot be used: a port in use, an address of a tunnel that
// is not there yet or a certificate that is being renewed is no reason for a gateway to stop. It returns ctx's error, or the listener's if that breaks.
func (s *Server) Run(ctx context.Context) error {
	l, err := s.bind(ctx)
	if err != nil {
		return err
	}
	a := l.Addr()
	s.addr.Store(&a)
	if s.config == "" {
		s.log.Info("metrics served", "address", a)
	} else {
		s.log.Info("metrics served", "address", a, "web_config", s.config)
	}
	srv := &http.Server{
		Handler:        s.handler,
		ReadTimeout:    readTimeout,
		WriteTimeout:   s.write,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       log.New(handshakeLog{s.log}, "", 0),
	}
	failed := make(chan error, 1)
	go func() {
		failed <- web.Serve(netutil.LimitListener(l, maxConnections), srv, &web.FlagConfig{WebConfigFile: &s.config}, slog.New(newWebLog(s.log.Handler())))
	}()
	close(s.ready)
	select {
	case err := <-failed:
		return fmt.Errorf("metrics on %s: %w", a, err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		_ = srv.Close() // cuts what is left; its error says only that the listener is closed already
	}
	<-failed
	return ctx.Err()
}

// bind listens, and retries until it can or ctx ends.
func (s *Server) bind(ctx context.Context) (net.Listener, error) {
	var last string
	for wait := s.retry; ; wait = min(2*wait, retryMax) {
		l, err := s.tryBind(ctx)
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err.Error() != last { // once, not every minute
			last = err.Error()
			s.log.Error("metrics not served, trying again", "address", s.listen, "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Server) tryBind(ctx context.Context) (net.Listener, error) {
	if s.config != "" {
		if _, err := CheckWebConfig(s.config); err != nil {
			return nil, fmt.Errorf("web configuration %s: %w", s.config, err)
		}
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", s.listen)
}

package metrics

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serve runs a server until the test ends and waits until it listens.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
	return s.Addr().String()
}

func server(t *testing.T, h http.Handler) *Server {
	return NewServer(ServerOptions{Listen: "127.0.0.1:0", Handler: h, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

func handler(t testing.TB, f *fake) http.Handler {
	t.Helper()
	h, err := Handler(HandlerOptions{Collector: f.collector(t), Started: at(0), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(t *testing.T, url, accept string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestServer(t *testing.T) {
	base := "http://" + serve(t, server(t, handler(t, gateway())))

	resp, body := get(t, base+"/metrics", "text/plain")
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("metrics: %s %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	for _, name := range []string{"\nsitewire_tunnel_up{", "\ngo_goroutines ", "\nprocess_start_time_seconds "} {
		if !strings.Contains(body, name) {
			t.Errorf("no %q", name)
		}
	}

	resp, body = get(t, base+"/metrics", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(body, "# EOF\n") {
		t.Errorf("OpenMetrics: %s %s", resp.Status, resp.Header.Get("Content-Type"))
	}

	resp, body = get(t, base+"/", "")
	if resp.StatusCode != 200 || !strings.Contains(body, `href="/metrics"`) {
		t.Errorf("landing page: %s %s", resp.Status, body)
	}
	if resp, _ = get(t, base+"/nothing", ""); resp.StatusCode != 404 {
		t.Errorf("unknown page: %s", resp.Status)
	}
	post, err := http.Post(base+"/metrics", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer post.Body.Close()
	if post.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", post.Status)
	}
}

// A client that asks and does not read is cut: Run's other clients are served, and the connection ends.
func TestSlowReader(t *testing.T) {
	big := strings.Repeat("x", 64<<20) // more than any socket buffer
	wrote := make(chan error, 1)
	s := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.WriteString(w, big)
		wrote <- err
	}))
	s.write = 200 * time.Millisecond
	addr := serve(t, s)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := bufio.NewReader(c).ReadByte(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-wrote:
		if err == nil {
			t.Error("everything was written to a client that does not read")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the slow reader was not cut")
	}
}

// An address that is taken is tried again until it is free, and Run does not fail meanwhile.
func TestServerRetries(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan struct{})
	s := NewServer(ServerOptions{
		Listen: taken.Addr().String(), Handler: http.NotFoundHandler(),
		Log: slog.New(onRecord{slog.DiscardHandler, func() { taken.Close(); close(failed) }}),
	})
	s.retry = 10 * time.Millisecond
	if s.Addr() != nil {
		t.Error("an address before Run")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-failed
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatalf("Run gave up: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("not ready although the address is free")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
}

// onRecord calls f for each error that is logged.
type onRecord struct {
	slog.Handler
	f func()
}

func (o onRecord) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }

func (o onRecord) Handle(context.Context, slog.Record) error {
	o.f()
	return nil
}

// Waiting for an address ends with the context.
func TestServerStopsWhileWaiting(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ctx, cancel := context.WithCancel(t.Context())
	s := NewServer(ServerOptions{Listen: taken.Addr().String(), Log: slog.New(onRecord{slog.DiscardHandler, cancel})})
	if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
}

func TestDefaultListenIsLoopback(t *testing.T) {
	host, _, err := net.SplitHostPort(NewServer(ServerOptions{}).listen)
	if err != nil || !net.ParseIP(host).IsLoopback() {
		t.Errorf("default address %q: %v", host, err)
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sitewire/gateway"
	"sitewire/topologies/netns"
)

func TestMain(m *testing.M) {
	// A command of a lab passes through, and a test may want to be in one; see netns.Enter.
	if netns.Inside() || os.Getenv(labTestEnv) != "" {
		if err := netns.Enter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	testscript.Main(m, map[string]func(){"sitewire": main, nobodyCommand: demoAsNobody, "grafana-server": fakeGrafana})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"daemon": fakeDaemon, "code": exitCodeOf},
		Setup: func(e *testscript.Env) error {
			// The path of a unix socket is short, the name of a test's directory is not.
			dir, err := os.MkdirTemp("", "sw")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv(socketEnv, filepath.Join(dir, "s"))
			return nil
		},
	})
}

// exitCodeOf runs `code N sitewire ARGS...`: the command must end with that exit code. stdout and stderr are then those of the command.
func exitCodeOf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command [args...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		got = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// fakeDaemon answers the API from the fixture until the script ends: `daemon [healthy|refusing|foreign]`.
func fakeDaemon(ts *testscript.TestScript, neg bool, args []string) {
	kind := "degraded"
	if len(args) > 0 {
		kind = args[0]
	}
	f := newFixture()
	if kind == "healthy" {
		f.status.Health, f.status.Problems = "ok", []gateway.Problem{}
	}
	l, err := net.Listen("unix", ts.Getenv(socketEnv))
	ts.Check(err)
	mux := http.NewServeMux()
	server := &http.Server{Handler: mux}
	reply := func(w http.ResponseWriter, status int, v any) {
		w.WriteHeader(status)
		ts.Check(json.NewEncoder(w).Encode(v))
	}
	for pattern, v := range map[string]any{
		"GET /v1/status": f.status, "GET /v1/peers": f.peers, "GET /v1/bgp": f.bgp, "GET /v1/explain": f.explanation,
		"GET /v1/diff": f.diff, "POST /v1/reload": f.reload,
		"GET /v1/config": map[string]any{"api_version": "v1", "config": "site: fra\n"},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case kind == "foreign":
				w.WriteHeader(http.StatusTeapot)
			case kind == "refusing" && (r.URL.Path == "/v1/reload" || r.URL.Path == "/v1/diff"):
				reply(w, http.StatusUnprocessableEntity, gateway.APIError{Error: "sitewire.yaml:7:3: unknown key \"pears\""})
			default:
				reply(w, http.StatusOK, v)
			}
		})
	}
	mux.HandleFunc("GET /v1/routes", func(w http.ResponseWriter, r *http.Request) {
		out := gateway.Routes{APIVersion: "v1", Routes: []gateway.RouteInfo{}}
		for _, route := range f.routes.Routes {
			if p := r.FormValue("prefix"); p == "" || p == route.Prefix.String() {
				out.Routes = append(out.Routes, route)
			}
		}
		reply(w, http.StatusOK, out)
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, map[string]string{"stopping": r.FormValue("teardown")})
		go server.Shutdown(context.Background())
	})
	go server.Serve(l)
	ts.Defer(func() { server.Close() })
}

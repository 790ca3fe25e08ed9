package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
)

// program is a requirement for need.
func program(name, pkg string) func() error {
	return func() error {
		if _, err := netns.Program(name); err != nil {
			return &netns.Unavailable{What: name, Why: err.Error(), Fix: "apt-get install " + pkg}
		}
		return nil
	}
}

// observable is what `demo --observe` needs.
func observable(t *testing.T) {
	t.Helper()
	need(t, map[string]func() error{"namespaces": netns.Usable, "tun": netns.UsableTUN})
	need(t, map[string]func() error{"program": program("prometheus", "prometheus")})
}

// fakeGrafana stands in for grafana-server: it answers where its configuration says, with all its configuration.
func fakeGrafana() {
	config, ok := strings.CutPrefix(os.Args[1], "--config=")
	ini, err := os.ReadFile(config)
	if !ok || err != nil {
		fmt.Fprintln(os.Stderr, os.Args, err)
		os.Exit(1)
	}
	value := func(key string) string {
		m := regexp.MustCompile(`(?m)^` + key + ` = (.*)$`).FindSubmatch(ini)
		if m == nil {
			fmt.Fprintln(os.Stderr, "no", key)
			os.Exit(1)
		}
		return string(m[1])
	}
	files, _ := filepath.Glob(filepath.Join(value("provisioning"), "*", "*.yaml"))
	var all bytes.Buffer
	for _, f := range files {
		b, err := os.ReadFile(f)
		fmt.Fprintln(&all, string(b), err)
	}
	fmt.Fprintln(os.Stderr, http.ListenAndServe(net.JoinHostPort(value("http_addr"), value("http_port")), http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) { w.Write(all.Bytes()) })))
	os.Exit(1)
}

// TestDemoObserve looks at a running `demo --observe` as its user does, from this network namespace, and kills it: nothing may live on.
func TestDemoObserve(t *testing.T) {
	if testing.Short() {
		t.Skip("the demo takes seconds")
	}
	observable(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(exe, filepath.Join(bin, "grafana-server")); err != nil {
		t.Fatal(err)
	}
	mark := "SITEWIRE_TEST_MARK=" + rand.Text()
	cmd := self(t.Context(), "demo", "--observe", "--observe-listen=127.0.0.1:0", "--grafana-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), mark, "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{} // URL by what it shows
	var said strings.Builder
	for lines := bufio.NewScanner(out); len(shown) < 3 && lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if what, url, ok := strings.Cut(strings.TrimSpace(lines.Text()), "http://"); ok {
			shown[strings.TrimSpace(what)] = "http://" + url
		}
	}
	go io.Copy(io.Discard, out)
	for what, want := range map[string]string{"metrics": "Prometheus", "alerts": "Prometheus", "dashboards": "url: http://127.0.0.1:9090"} {
		if got, err := page(t.Context(), shown[what]); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s at %q: %v, %.200q lacks %q\n%s", what, shown[what], err, got, want, said.String())
		}
	}
	prometheus := shown["metrics"]
	for path, want := range map[string]string{
		"/api/v1/query?query=up{instance=%22sin%22}": `"sin"`,
		demoFiles + "prometheus.yml":                 "job_name: sitewire",
		demoFiles + "grafana/sitewire-overview.json": `"uid": "sitewire-overview"`,
	} {
		if got, err := page(t.Context(), prometheus+path); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %v, %.200q lacks %q", path, err, got, want)
		}
	}
	// The demo, its init, the program inside, three gateways, Prometheus and Grafana.
	if n := len(marked(t, mark)); n < 8 {
		t.Errorf("%d processes of the demo, want 8", n)
	}
	killTogether(t, cmd, mark)
	if got, err := page(t.Context(), prometheus); err == nil {
		t.Errorf("somebody still answers at %s: %.100q", prometheus, got)
	}
}

func page(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(b), err
}

// TestDemoObserveSaysWhatIsMissing: without Prometheus, or with its address taken, nothing is built.
func TestDemoObserveSaysWhatIsMissing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	empty, withFake := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(withFake, "prometheus"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, address, want string }{
		{"no Prometheus", empty, "127.0.0.1:0", "apt-get install prometheus"},
		{"address in use", withFake, l.Addr().String(), "--observe-listen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := netns.Program("prometheus"); c.path == empty && err == nil && !onPath("prometheus") {
				t.Skip("SKIP-REASON kind=program name=no-prometheus fix=\"remove it from sbin\" why=\"it is found beyond PATH\"")
			}
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "demo", "--once", "--observe", "--observe-listen", c.address)
			cmd.Args[0] = "sitewire"
			cmd.Env = []string{"PATH=" + c.path}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if code := exitCode(cmd.Run()); code != exitFailure {
				t.Errorf("exit code %d, want %d", code, exitFailure)
			}
			if stdout.Len() > 0 || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), c.want) {
				t.Errorf("it says %q and %q, want one line with %q", stdout.String(), stderr.String(), c.want)
			}
		})
	}
}

func onPath(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// TestDemoObserveUnprivileged: neither Prometheus nor what shows it needs root.
func TestDemoObserveUnprivileged(t *testing.T) {
	if testing.Short() {
		t.Skip("the demo takes seconds")
	}
	observable(t)
	stdout, stderr, code := demoUnprivileged(t, "0666", "--observe", "--observe-listen=127.0.0.1:0", "--grafana-listen=127.0.0.1:0")
	if code == exitFailure && strings.Contains(stderr, "user namespaces") {
		unavailable(t, "user namespaces", stderr, "sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0")
	}
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, messages:\n%s", code, stderr)
	}
	for _, want := range []string{"uid 65534, capabilities none", "it scrapes 3 gateways", "sitewire_bgp_session_downs_total", "All of it worked"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("not said: %q\n%s", want, stdout)
		}
	}
}

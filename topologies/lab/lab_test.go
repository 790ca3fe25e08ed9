package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sitewire/topologies"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

var program string

func TestMain(m *testing.M) {
	nstest.Main(m)
}

// build builds sitewire once.
func build(t *testing.T) string {
	t.Helper()
	if program != "" {
		return program
	}
	dir, err := os.MkdirTemp("", "sitewire")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "sitewire")
	if out, err := exec.Command("go", "build", "-o", file, "sitewire/cmd/sitewire").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program = file
	return program
}

func TestUp(t *testing.T) {
	for _, e := range topologies.Entries() {
		t.Run(e.Name, func(t *testing.T) {
			nstest.Need(t, nstest.TUN)
			w, err := topologies.Build(e.Name, 0)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			l, err := Up(t.Context(), w, Options{Sitewire: build(t)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if t.Failed() {
					for _, n := range w.Nodes {
						t.Logf("== %s\n%s", n.Name, l.Log(n.Name))
					}
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			up := time.Since(start)
			for _, g := range w.ByRole(topologies.Gateway) {
				nstest.Eventually(t, 20*time.Second, "sessions of "+g.Name, func() error { return sessions(l, g.Name) })
			}
			established := time.Since(start)
			hosts := w.ByRole(topologies.Host)
			for _, a := range hosts {
				for _, b := range hosts {
					if a == b {
						continue
					}
					for _, v6 := range []bool{false, true} {
						dst := w.Ports(b)[0].Addr(v6)
						nstest.Eventually(t, 30*time.Second, fmt.Sprintf("%s to reach %s", a.Name, dst), func() error {
							_, got, err := netns.Ping(t.Context(), l.NS(a.Name), netip.Addr{}, dst, netns.PingOpts{})
							if err == nil && got == 0 {
								err = fmt.Errorf("no answer")
							}
							return err
						})
					}
				}
			}
			t.Logf("up %v, established %v, all reached %v", up, established, time.Since(start))
		})
	}
}

func sessions(l *Lab, node string) error {
	cmd, err := l.Command(context.Background(), node, "sitewire", "bgp", "--json")
	if err != nil {
		return err
	}
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var s struct {
		Sessions []struct {
			Name  string `json:"name"`
			State string `json:"state"`
		} `json:"sessions"`
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return err
	}
	for _, x := range s.Sessions {
		if x.State != "Established" {
			return fmt.Errorf("%s is %s", x.Name, x.State)
		}
	}
	if len(s.Sessions) == 0 {
		return fmt.Errorf("no sessions: %s", out)
	}
	return nil
}

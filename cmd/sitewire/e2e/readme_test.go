package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sitewire/gateway"
	"sitewire/gateway/config"
	"sitewire/gateway/wg"
	"sitewire/topologies/netns/nstest"
)

// TestREADME: the configuration in README works as it is printed there, with a mirror image of it at the other end.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("../../../README.md")
	must(t, err)
	m := regexp.MustCompile("(?s)```yaml\n(site: fra\n.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("README has no configuration of fra")
	}
	printed := string(m[1])
	if n := strings.Count(printed, "\n"); n != 10 {
		t.Errorf("README promises ten lines and prints %d", n)
	}

	l := newLab(t)
	fra, nyc := l.site("fra"), l.site("nyc")
	// The key whose public half README prints; published, and so of no other use.
	nyc.key = wg.Secret(sha256.Sum256([]byte("sitewire README: nyc")))
	if !strings.Contains(printed, nyc.pub().String()) {
		t.Fatalf("README does not print the key %s", nyc.pub())
	}
	d := nyc.run(fmt.Sprintf(`site: nyc
asn: 4242420002
announce: [172.20.2.0/27, fd42:2::/48]
socket: %s
metrics: { listen: "127.0.0.1:9100" }
wireguard:
  private_key: ${file:%s}
  listen_port: 51820
peers:
  fra: { public_key: %s, asn: 4242420001, policy: dn42 }
`, nyc.socket(), filepath.Join(nyc.dir, "private.key"), fra.pub()))

	// As on a machine of fra's: its own /etc with the file, the key and a name server that knows nyc.
	etc := filepath.Join(fra.dir, "etc")
	must(t, os.MkdirAll(filepath.Join(etc, "sitewire"), 0o755))
	for name, content := range map[string]string{
		"sitewire/sitewire.yaml": printed,
		"sitewire/private.key":   fra.key.Reveal() + "\n",
		"hosts":                  nyc.out4.String() + " nyc.example.net\n",
	} {
		must(t, os.WriteFile(filepath.Join(etc, name), []byte(content), 0o600))
	}
	inEtc := func(args ...string) []string {
		return append([]string{"-c", `mount --bind "$0" /etc && exec "$@"`, etc, program}, args...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	log := &strings.Builder{}
	cmd := fra.ns.Command(ctx, "sh", inEtc("run")...)
	cmd.Stderr = log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	must(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // ended by us
		if t.Failed() {
			t.Log(log.String())
		}
	})

	d.sessionsUp(1)
	nstest.Eventually(t, 20*time.Second, "README's site to be healthy", func() error {
		out, err := fra.ns.Command(t.Context(), program, "status", "--json").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		var s gateway.Status
		if err := json.Unmarshal(out, &s); err != nil {
			return err
		}
		if s.Sessions.Up != 1 || s.Tunnels.Up != 1 || s.Routes["ipv4"] != 1 || s.Routes["ipv6"] != 1 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	// What README says of inner addresses.
	if got, want := d.session("fra").Address.WithZone(""), config.LinkLocal(fra.pub()); got != want {
		t.Errorf("inner address of fra is %v, and follows from its key as %v", got, want)
	}
}

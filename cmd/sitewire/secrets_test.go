package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sitewire/gateway/wg"
)

// secret is something that must not be printed, in the forms that it could be printed in.
type secret struct {
	name  string
	forms []string
}

func newSecret(name string, raw []byte) secret {
	upper := strings.ToUpper(hex.EncodeToString(raw))
	forms := []string{
		string(raw), base64.RawStdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), hex.EncodeToString(raw), upper,
		strings.Trim(fmt.Sprint(raw), "[]"), strings.ReplaceAll(strings.Trim(fmt.Sprint(raw), "[]"), " ", ","), // as %v and JSON print bytes
	}
	for i, f := range forms {
		forms[i] = f[:len(f)*2/3] // an excerpt that is cut off tells too much as well
	}
	return secret{name, forms}
}

// told returns which secret a text tells; empty if it tells none.
func told(text string, secrets []secret) string {
	for _, s := range secrets {
		for _, f := range s.forms {
			if strings.Contains(text, f) {
				return s.name
			}
		}
	}
	return ""
}

// TestSecrets runs a daemon at the most talkative level, asks it everything that there is to ask, and shows it and `check` files in which
// secrets stand where they do not belong. Nothing of what is printed may tell a secret.
func TestSecrets(t *testing.T) {
	if !inLab(t) {
		return
	}
	private, err := wg.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	psk, err := wg.NewPresharedKey()
	if err != nil {
		t.Fatal(err)
	}
	peerKey, err := wg.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	const password = "Correct-Horse7Battery"
	secrets := []secret{newSecret("private key", private[:]), newSecret("preshared key", psk[:]), newSecret("password", []byte(password))}

	d := newLabDaemon(t)
	d.put("private.key", private.Reveal()+"\n")
	d.put("psk", psk.Reveal()+"\n")
	d.put("password", password+"\n")
	d.put("broken.key", private.Reveal()+private.Reveal()+"\n")
	d.put("short.key", private.Reveal()[:40]+"\n")
	d.put("long.password", strings.Repeat(password, 5)+"\n")
	const listen = "127.0.0.1:9587"
	good := d.yaml(strings.NewReplacer("DIR", d.dir, "PEER", peerKey.Public().String()).Replace(`log: { level: debug }
metrics: { listen: "` + listen + `" }
wireguard: { private_key: "${file:DIR/private.key}" }
peers:
  nyc:
    public_key: PEER
    preshared_key: ${file:DIR/psk}
    endpoint: 127.0.0.1:51999
    asn: 4242420002
    policy: dn42
    bgp: { password: "${file:DIR/password}" }
neighbours:
  core:
    address: 198.51.100.2
    asn: 65000
    policy: lan
    password: ${file:DIR/password}
`))
	d.file = d.put("sitewire.yaml", good)
	d.start()

	seen := 0
	hear := func(where, text string) {
		t.Helper()
		seen++
		if s := told(text, secrets); s != "" {
			t.Errorf("%s tells the %s:\n%s", where, s, text)
		}
	}
	run := func(args ...string) {
		t.Helper()
		out, _ := self(t.Context(), args...).CombinedOutput() // failing is what many of them are to do
		if len(out) == 0 {
			t.Errorf("sitewire %s prints nothing", strings.Join(args, " "))
		}
		hear("sitewire "+strings.Join(args, " "), string(out))
	}
	everything := func() {
		t.Helper()
		for _, args := range [][]string{
			{"status"}, {"status", "--json"}, {"peers"}, {"peers", "--json"}, {"peers", "nyc"}, {"bgp", "--json"}, {"bgp", "nyc"}, {"bgp", "core"},
			{"routes", "--json"}, {"explain", "172.20.1.1"}, {"config"}, {"config", "--json"}, {"version", "--json"},
		} {
			run(append([]string{"--socket", d.socket}, args...)...)
		}
		for _, path := range []string{
			"/v1/healthz", "/v1/status", "/v1/peers", "/v1/bgp", "/v1/routes", "/v1/explain?address=10.0.0.1", "/v1/explain?address=x", "/v1/config", "/v1/diff",
			"/v1/diff?path=" + filepath.Join(d.dir, "private.key"), "/v1/nothing", "/debug/pprof/", "/debug/vars", "/metrics",
		} {
			hear("GET "+path, d.raw(path))
		}
	}
	everything()

	for name, change := range map[string]struct{ old, new string }{
		"inline private key":     {`"${file:DIR/private.key}"`, private.Reveal()},
		"inline preshared key":   {"${file:DIR/psk}", psk.Reveal()},
		"inline password":        {"    password: ${file:DIR/password}", "    password: " + password},
		"quoted":                 {`"${file:DIR/private.key}"`, `"` + private.Reveal() + `"`},
		"hexadecimal":            {`"${file:DIR/private.key}"`, private.Hex()},
		"cut off":                {"${file:DIR/psk}", psk.Reveal()[:43]},
		"key of a key":           {`"${file:DIR/private.key}"`, private.Reveal() + ": 1"},
		"list":                   {"${file:DIR/psk}", "[" + psk.Reveal() + "]"},
		"misspelt key":           {"preshared_key: ${file:DIR/psk}", "preshared_kye: " + psk.Reveal()},
		"misspelt password":      {"    password: ${file:DIR/password}", "    pasword: " + password},
		"block text":             {"    password: ${file:DIR/password}", "    password: |\n      " + password},
		"unclosed quote":         {"    password: ${file:DIR/password}", `    password: "` + password},
		"tab":                    {"    password: ${file:DIR/password}", "\tpassword: " + password},
		"comment left in":        {"${file:DIR/psk}", psk.Reveal() + " # from the old file"},
		"broken key file":        {"DIR/private.key", "DIR/broken.key"},
		"unknown reference":      {"${file:DIR/psk}", "${exec:" + psk.Reveal() + "}"},
		"short key file":         {"DIR/psk", "DIR/short.key"},
		"password file too long": {"    password: ${file:DIR/password}", "    password: ${file:DIR/long.password}"},
		"file as a value":        {"4242420002", "${file:DIR/password}"},
		"file as a name":         {"site: fra", "site: ${file:DIR/private.key}"},
		"not yaml":               {"neighbours:", private.Reveal() + "\nneighbours:"},
	} {
		inDir := func(s string) string { return strings.ReplaceAll(s, "DIR", d.dir) }
		text := strings.Replace(good, inDir(change.old), inDir(change.new), 1)
		if text == good {
			t.Fatalf("%s: nothing changed", name)
		}
		path := d.put("broken.yaml", text)
		run("check", path)
		run("check", "--json", path)
		run("check", "--no-secrets", path)
		run("run", "--config", path)
		run("--socket", d.socket, "diff", path)
		d.put("sitewire.yaml", text)
		run("--socket", d.socket, "reload")
		run("--socket", d.socket, "status")
		hear("status after the reload of "+name, d.raw("/v1/status"))
	}
	d.put("sitewire.yaml", good)
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.until("the handshake to be tried and the reload to be logged", func() error {
		for _, want := range []string{"Sending handshake initiation", "configuration applied"} {
			if !strings.Contains(d.log(), want) {
				return fmt.Errorf("not in the log: %s", want)
			}
		}
		return nil
	})
	everything()
	text, err := d.scrape(listen)
	if err != nil {
		t.Fatal(err)
	}
	hear("/metrics", text)
	d.stop()
	hear("the log", d.log())

	// The search finds what it looks for.
	for _, s := range []string{private.Reveal(), psk.Hex(), password, fmt.Sprint(psk[:])} {
		if told("x"+s+"x", secrets) == "" {
			t.Errorf("not found: %q", s)
		}
	}
	if seen < 100 {
		t.Errorf("only %d texts were looked at", seen)
	}
}

// raw is the body of GET path, whatever its status.
func (d *labDaemon) raw(path string) string {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, "http://sitewire"+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := newClient(d.socket).http.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

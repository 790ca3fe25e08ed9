package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sitewire/gateway/wg"
)

// secret is something that must not be printed, in the forms that it could be printed in.
type secret struct {
	name  string
	forms []string
}

// newSecret takes the secret's bytes: those of a key and not its base64.
func newSecret(name string, raw []byte) secret {
	standard := base64.StdEncoding.EncodeToString(raw)
	spaced := strings.Trim(fmt.Sprint(raw), "[]")
	var literal, escaped, percent strings.Builder
	for _, c := range raw {
		fmt.Fprintf(&literal, "0x%x, ", c) // as %#v prints bytes
		fmt.Fprintf(&escaped, `\x%02x`, c) // as %q prints bytes that are no text
		fmt.Fprintf(&percent, "%%%02X", c)
	}
	forms := []string{
		string(raw), strconv.Quote(string(raw)), url.QueryEscape(string(raw)), url.PathEscape(string(raw)), percent.String(), strings.ToLower(percent.String()),
		standard, base64.URLEncoding.EncodeToString(raw), url.QueryEscape(standard), url.PathEscape(standard), strings.ReplaceAll(standard, "/", `\/`),
		hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)), spacedHex(raw, " "), spacedHex(raw, ":"),
		spaced, strings.ReplaceAll(spaced, " ", ","), strings.ReplaceAll(spaced, " ", ", "), literal.String(), escaped.String(),
	}
	for i, f := range forms {
		forms[i] = f[:len(f)*2/3] // an excerpt that is cut off tells too much as well
	}
	return secret{name, forms}
}

// spacedHex is hexadecimal with something between the bytes.
func spacedHex(raw []byte, between string) string {
	parts := make([]string, len(raw))
	for i, c := range raw {
		parts[i] = fmt.Sprintf("%02x", c)
	}
	return strings.Join(parts, between)
}

// told returns which secret a text tells, in which form; empty if it tells none.
func told(text string, secrets []secret) string {
	for _, s := range secrets {
		for _, f := range s.forms {
			if strings.Contains(text, f) {
				return fmt.Sprintf("%s as %q", s.name, f)
			}
		}
	}
	return ""
}

// TestSecretIsFound: the search finds a secret in every form that Go and its usual encoders print it in.
func TestSecretIsFound(t *testing.T) {
	key, err := wg.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	raw := key[:]
	text, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	numbers := make([]int, len(raw))
	for i, c := range raw {
		numbers[i] = int(c)
	}
	list, err := json.Marshal(numbers)
	if err != nil {
		t.Fatal(err)
	}
	const password = "Correct Horse+Battery/7%"
	for _, s := range []secret{newSecret("key", raw), newSecret("password", []byte(password))} {
		if told("nothing of it", []secret{s}) != "" {
			t.Errorf("%s found where it is not", s.name)
		}
	}
	for _, printed := range []string{
		string(raw), key.Reveal(), key.Hex(), string(text), string(list), fmt.Sprint(raw), fmt.Sprintf("%d", raw), fmt.Sprintf("%x", raw), fmt.Sprintf("%X", raw),
		fmt.Sprintf("% x", raw), fmt.Sprintf("%#v", raw), fmt.Sprintf("%q", raw), strings.TrimRight(key.Reveal(), "="), url.QueryEscape(key.Reveal()), url.PathEscape(key.Reveal()),
		url.QueryEscape(string(raw)), base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
	} {
		if told("{"+printed+"}", []secret{newSecret("key", raw)}) == "" {
			t.Errorf("key not found: %q", printed)
		}
	}
	for _, printed := range []string{
		password, url.QueryEscape(password), url.PathEscape(password), fmt.Sprintf("%q", password), fmt.Sprint([]byte(password)), hex.EncodeToString([]byte(password)),
		base64.StdEncoding.EncodeToString([]byte("prometheus:" + password)), // as the header of basic authentication has it
	} {
		if told("{"+printed+"}", basicAuth("prometheus", password)) == "" {
			t.Errorf("password not found: %q", printed)
		}
	}
}

// basicAuth are a password and the header that carries it.
func basicAuth(user, password string) []secret {
	return []secret{newSecret("web password", []byte(password)), newSecret("Authorization header", []byte(user+":"+password))}
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
	envPSK, err := wg.NewPresharedKey()
	if err != nil {
		t.Fatal(err)
	}
	credPSK, err := wg.NewPresharedKey()
	if err != nil {
		t.Fatal(err)
	}
	const password = "Correct-Horse7Battery"
	secrets := append([]secret{
		newSecret("private key", private[:]), newSecret("preshared key", psk[:]), newSecret("password", []byte(password)),
		newSecret("preshared key of the environment", envPSK[:]), newSecret("preshared key of the credentials", credPSK[:]),
		newSecret("hash of the web password", []byte(webHash)),
	}, basicAuth("prometheus", webPassword)...)

	d := newLabDaemon(t)
	d.put("private.key", private.Reveal()+"\n")
	d.put("psk", psk.Reveal()+"\n")
	d.put("password", password+"\n")
	d.put("broken.key", private.Reveal()+private.Reveal()+"\n")
	d.put("short.key", private.Reveal()[:40]+"\n")
	d.put("long.password", strings.Repeat(password, 5)+"\n")
	d.put("credential", credPSK.Reveal()+"\n")
	t.Setenv("SITEWIRE_TEST_PSK", envPSK.Reveal())
	t.Setenv("CREDENTIALS_DIRECTORY", d.dir)
	certificate, key, tlsSecrets := newTLS(t)
	secrets = append(secrets, tlsSecrets...)
	d.put("tls.crt", certificate)
	d.put("tls.key", key)
	const web = "tls_server_config: { cert_file: tls.crt, key_file: tls.key }\nbasic_auth_users: { prometheus: " + webHash + " }\n"
	d.put("web.yaml", web)
	const listen = "127.0.0.1:9587"
	good := d.yaml(strings.NewReplacer("DIR", d.dir, "ENVPEER", newPublicKey(t), "CREDPEER", newPublicKey(t), "PEER", peerKey.Public().String()).Replace(`log: { level: debug }
metrics: { listen: "` + listen + `", web_config: web.yaml }
wireguard: { private_key: "${file:DIR/private.key}" }
peers:
  nyc:
    public_key: PEER
    preshared_key: ${file:DIR/psk}
    endpoint: 127.0.0.1:51999
    asn: 4242420002
    policy: dn42
    bgp: { password: "${file:DIR/password}" }
  env:
    public_key: ENVPEER
    preshared_key: ${env:SITEWIRE_TEST_PSK}
    endpoint: 127.0.0.1:51998
    listen_port: 51831
    allowed_ips: [10.18.0.0/24]
  cred:
    public_key: CREDPEER
    preshared_key: ${cred:credential}
    endpoint: 127.0.0.1:51997
    listen_port: 51832
    allowed_ips: [10.19.0.0/24]
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
	ran := map[string]bool{}
	run := func(args ...string) {
		t.Helper()
		for _, c := range newRoot(newApp()).Commands() {
			if slices.Contains(args, c.Name()) {
				ran[c.Name()] = true
			}
		}
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
			{"peers", "env"}, {"peers", "cred", "--json"}, {"bgp"}, {"bgp", "nyc", "--json"}, {"routes"}, {"routes", "172.20.1.0/24"}, {"explain", "10.18.0.1", "--json"},
			{"rpki"}, {"rpki", "--json"}, {"diff"}, {"diff", "--json"}, {"reload"}, {"reload", "--json"}, {"check", d.file}, {"check", "--json", d.file}, {"schema"},
			{"doctor", d.file}, {"doctor", "--json", d.file},
			{"export", "wg-quick", d.file}, {"export", "wg-quick", "--live", d.file}, {"export", "wg-quick", "--force", "-o", filepath.Join(d.dir, "wireguard"), d.file},
		} {
			run(append([]string{"--socket", d.socket}, args...)...)
		}
		for _, path := range []string{
			"/v1/healthz", "/v1/status", "/v1/peers", "/v1/bgp", "/v1/routes", "/v1/explain?address=10.0.0.1", "/v1/explain?address=x", "/v1/config", "/v1/diff",
			"/v1/diff?path=" + filepath.Join(d.dir, "private.key"), "/v1/nothing", "/debug/pprof/", "/debug/vars", "/metrics",
		} {
			hear("GET "+path, d.raw(path))
		}
		for _, password := range []string{webPassword, password, ""} {
			for _, accept := range []string{
				"text/plain", "application/openmetrics-text;version=1.0.0", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
				"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
			} {
				status, text := scrapeTLS(t, certificate, "https://"+listen+"/metrics", password, accept)
				if want := map[bool]int{true: http.StatusOK, false: http.StatusUnauthorized}[password == webPassword]; status != want {
					t.Errorf("metrics as %s with password %q: status %d, want %d", accept, password, status, want)
				}
				hear("metrics as "+accept, text)
			}
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
		run("doctor", path)
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

	importSecrets(t, d, private, psk, peerKey.Public(), run)

	// A web configuration with a password in it, of a daemon that runs and of one that is to start.
	for name, text := range map[string]string{
		"password that is no hash": "basic_auth_users: { prometheus: " + webPassword + " }\n",
		"password for users":       "basic_auth_users: " + webPassword + "\n",
		"password as a key":        webPassword + ": 1\n",
		"hash as a key":            "basic_auth_users:\n  prometheus:\n    " + webHash + ": 1\n",
		"anchor":                   "basic_auth_users: { prometheus: *" + webPassword + " }\n",
		"key that is none":         "tls_server_config:\n  cert_file: tls.crt\n  key: " + strconv.Quote(webPassword) + "\n",
		"key in the wrong place":   strings.ReplaceAll("tls_server_config: |\n  "+key, "\n", "\n  ") + "\n",
		"key for the certificate":  "tls_server_config: { cert_file: tls.key, key_file: tls.key }\n",
	} {
		d.put("web.yaml", text)
		run("check", d.file)
		run("check", "--json", d.file)
		run("run", "--config", d.file)
		run("--socket", d.socket, "reload")
		_, answer := scrapeTLS(t, certificate, "https://"+listen+"/metrics", webPassword, "text/plain")
		hear("metrics with "+name, answer)
	}
	d.put("web.yaml", web)
	ran["stop"] = true // says nothing if all is well
	out, err := self(t.Context(), "--socket", d.socket, "stop").CombinedOutput()
	if err != nil {
		t.Errorf("stop: %v", err)
	}
	hear("sitewire stop", string(out))
	// What is left makes keys of its own, or has a lab's, which are public by design.
	for _, c := range newRoot(newApp()).Commands() {
		if elsewhere := []string{"demo", "lab", "genkey", "genpsk", "pubkey", "help", "completion"}; !ran[c.Name()] && !slices.Contains(elsewhere, c.Name()) {
			t.Errorf("sitewire %s was not looked at", c.Name())
		}
	}
	select {
	case <-d.ended:
		d.cmd = nil
	case <-time.After(20 * time.Second):
		t.Error("the daemon did not stop")
	}
	hear("the log", d.log())

	if seen < 300 {
		t.Errorf("only %d texts were looked at", seen)
	}
}

// importSecrets imports files of wg-quick in which keys stand where they belong and where they do not.
func importSecrets(t *testing.T, d *labDaemon, private, psk wg.Secret, peer wg.PublicKey, run func(args ...string)) {
	good := "[Interface]\nPrivateKey = " + private.Reveal() + "\nListenPort = 51820\n# the peer\n[Peer]\nPublicKey = " + peer.String() +
		"\nPresharedKey = " + psk.Reveal() + "\nAllowedIPs = 10.20.0.0/16\nEndpoint = 192.0.2.1:51820\n"
	for name, change := range map[string]struct{ old, new string }{
		"as it should be":    {"", ""},
		"misspelt key":       {"PrivateKey", "PrivatKey"},
		"misspelt psk":       {"PresharedKey", "PreSharedKy"},
		"no key":             {"PrivateKey = ", ""},
		"no equals":          {"PrivateKey = ", "PrivateKey "},
		"cut off":            {private.Reveal(), private.Reveal()[:42]},
		"hexadecimal":        {private.Reveal(), private.Hex()},
		"quoted":             {psk.Reveal(), `"` + psk.Reveal() + `"`},
		"twice":              {"ListenPort", "PrivateKey = " + private.Reveal() + "\nListenPort"},
		"in a comment":       {"# the peer", "# PrivateKey = " + private.Reveal()},
		"as a name":          {"# the peer", "# " + private.Reveal()},
		"as a labelled name": {"# the peer", "# Name = " + private.Reveal()},
		"as a description":   {"# the peer", "# nyc\n# key " + psk.Reveal()},
		"as the endpoint":    {"192.0.2.1:51820", private.Reveal()},
		"as an address":      {"10.20.0.0/16", private.Reveal()},
		"as a port":          {"51820\n#", private.Reveal() + "\n#"},
		"as a mark":          {"ListenPort = 51820", "FwMark = " + private.Reveal()},
		"as DNS":             {"ListenPort", "DNS = " + private.Reveal() + "\nListenPort"},
		"as a table":         {"ListenPort", "Table = " + private.Reveal() + "\nListenPort"},
		"in the header":      {"[Peer]", "[" + private.Reveal() + "]"},
		"in a command":       {"ListenPort", "PostUp = wg set %i private-key <(echo " + private.Reveal() + ")\nListenPort"},
		"in an echo":         {"ListenPort", "PostUp = echo '" + psk.Reveal() + "' > /run/psk\nListenPort"},
		"in hexadecimal":     {"ListenPort", "PostDown = key " + private.Hex() + "\nListenPort"},
		"as a route":         {"ListenPort", "PostUp = ip route add " + private.Reveal() + " dev %i\nListenPort"},
		"as an inner one":    {"ListenPort", "PostUp = ip addr add " + private.Reveal() + " dev %i; sysctl -w " + private.Reveal() + "\nListenPort"},
	} {
		text := strings.Replace(good, change.old, change.new, 1)
		if text == good && change.old != "" {
			t.Fatalf("%s: nothing changed", name)
		}
		path := d.put("wg9.conf", text)
		run("import", "wg-quick", "--site", "fra", path)
		run("import", "wg-quick", "--site", "fra", "--force", "-o", filepath.Join(d.dir, "imported", "sitewire.yaml"), path)
		run("import", "wg-quick", "--site", "fra", "--device", "wg8", path, path)
	}
}

// webHash is bcrypt's, of webPassword, at the lowest cost.
const (
	webPassword = "Prometheus-May-Read7"
	webHash     = "$2a$04$mNaYZOsk6ZAzV4mnLFw1Sux5yJjNduT/cjolAZ6KpZ6qwVHPEpSnG"
)

// newTLS makes a certificate for 127.0.0.1 and its key, and what of the key must not be told.
func newTLS(t *testing.T) (certificate, key string, secrets []secret) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	key = string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), key, []secret{
		newSecret("TLS key", scalar), newSecret("TLS key's file", []byte(strings.Split(key, "\n")[1])),
	}
}

func newPublicKey(t *testing.T) string {
	t.Helper()
	k, err := wg.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.Public().String()
}

// scrapeTLS returns the status and the body of a page, or 0 and the error.
func scrapeTLS(t *testing.T, certificate, url, password, accept string) (status int, body string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(certificate))
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if password != "" {
		req.SetBasicAuth("prometheus", password)
	}
	req.Header.Set("Accept", accept)
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
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

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"sitewire/metrics"
	"sitewire/topologies/netns"
)

// Where things are in the observer's namespace. Prometheus and Grafana listen there only; from outside they are reached through the
// listeners that were handed in.
var (
	prometheusAddress = netip.MustParseAddrPort("127.0.0.1:9090")
	grafanaAddress    = netip.MustParseAddrPort("127.0.0.1:3000")
)

const (
	demoMetricsPort = 9587
	// demoFiles is the path below which the proxy shows the files for a Grafana or Prometheus of one's own.
	demoFiles = "/sitewire/"
)

// managementNet joins the gateways and the observer, as many sites have it: neither the internet of the lab nor a LAN.
var managementNet = netip.MustParsePrefix("10.99.0.0/24")

// demoStolen belongs to an AS that is not in the demo.
var demoStolen = netip.MustParsePrefix("172.20.99.0/24")

const demoRobbed = 4242420099

// demoObserver is a namespace with a Prometheus that scrapes all gateways.
type demoObserver struct {
	ns      *netns.NS
	dir     string            // configuration, rules and dashboards
	address netip.AddrPort    // of Prometheus
	shown   map[string]string // URL outside, by name
	client  *http.Client      // dials inside
	alerts  string            // path of the page of alerts
	// grafana is nil without Grafana.
	grafana *demoProcess
}

// addObserver makes the observer's namespace and its network, and tells every site where to serve metrics.
func (l *demoLab) addObserver() error {
	ns, err := netns.New("observer")
	if err != nil {
		return err
	}
	const bridge = "mgmt"
	if err := netns.Bridge(ns, bridge); err != nil {
		return err
	}
	if err := ns.Addr(bridge, netip.PrefixFrom(hostOf(managementNet, 254), managementNet.Bits())); err != nil {
		return err
	}
	for _, s := range l.sites {
		addr := hostOf(managementNet, byte(s.number))
		if err := netns.Attach(ns, bridge, s.gw, "mgmt0", netns.LinkOpts{
			AddrsA: []netip.Prefix{netip.PrefixFrom(addr, managementNet.Bits())},
		}); err != nil {
			return err
		}
		s.metrics = netip.AddrPortFrom(addr, demoMetricsPort)
		if err := s.writeOrigins(l.sites); err != nil {
			return err
		}
	}
	o := &demoObserver{ns: ns, dir: filepath.Join(ns.StateDir(), "observe"), address: prometheusAddress, shown: map[string]string{}}
	o.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: o.dial}}
	l.observer = o
	return o.writeFiles(l.sites)
}

// prometheusConfig scrapes each second: whoever breaks something in the demo wants to see it at once.
var prometheusConfig = template.Must(template.New("prometheus.yml").Parse(`global:
  scrape_interval: 1s
  evaluation_interval: 2s
rule_files: [prometheus/*.rules.yaml]
scrape_configs:
  - job_name: sitewire
    static_configs:{{range .}}
      - targets: ["{{.Target}}"]
        labels: { instance: {{.Name}} }{{end}}
`))

// writeOrigins tells a gateway who may originate which prefixes, as generators of such files do.
func (s *demoSite) writeOrigins(sites []*demoSite) error {
	type roa struct {
		Prefix    string `json:"prefix"`
		MaxLength int    `json:"maxLength"`
		ASN       string `json:"asn"`
	}
	asn := func(n uint32) string { return fmt.Sprintf("AS%d", n) }
	roas := []roa{{demoStolen.String(), demoStolen.Bits(), asn(demoRobbed)}}
	for _, x := range sites {
		roas = append(roas, roa{x.lan4.String(), x.lan4.Bits(), asn(x.asn)}, roa{x.announce6.String(), x.announce6.Bits(), asn(x.asn)})
	}
	b, err := json.Marshal(map[string][]roa{"roas": roas})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir(), "roa.json"), b, 0o600)
}

func (o *demoObserver) writeFiles(sites []*demoSite) error {
	type target struct {
		Name   string
		Target netip.AddrPort
	}
	var targets []target
	for _, s := range sites {
		targets = append(targets, target{s.name, s.metrics})
	}
	var config bytes.Buffer
	if err := prometheusConfig.Execute(&config, targets); err != nil {
		return err
	}
	if err := os.CopyFS(o.dir, metrics.Assets); err != nil {
		return fmt.Errorf("rules and dashboards: %w", err)
	}
	return os.WriteFile(filepath.Join(o.dir, "prometheus.yml"), config.Bytes(), 0o600)
}

// startObserving starts Prometheus, and Grafana if there is a listener for it, and shows them on the listeners.
func (l *demoLab) startObserving(listeners map[string]net.Listener) error {
	o := l.observer
	outside := listeners[demoPrometheus]
	if outside == nil {
		return errors.New("--observe needs the listener that `sitewire demo` makes before it enters its namespaces: start it as `sitewire demo`")
	}
	o.shown[demoPrometheus] = "http://" + outside.Addr().String()
	if err := l.startPrometheus(o, demoPrometheus, "--web.external-url="+o.shown[demoPrometheus]); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", o.proxy(o.address))
	mux.Handle(demoFiles, http.StripPrefix(demoFiles, http.FileServerFS(os.DirFS(o.dir))))
	go serveDemo(outside, mux)

	outside = listeners[demoGrafana]
	if outside == nil {
		return nil
	}
	o.shown[demoGrafana] = "http://" + outside.Addr().String()
	go serveDemo(outside, o.proxy(grafanaAddress))
	return l.startGrafana(o.shown[demoGrafana])
}

func portText(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }

// startPrometheus runs a Prometheus for an observer, at the observer's address.
func (l *demoLab) startPrometheus(o *demoObserver, name string, args ...string) error {
	data := filepath.Join(o.ns.StateDir(), name) // in memory, as all of the lab
	cmd := o.ns.Command(context.Background(), "prometheus", append([]string{
		"--config.file=" + filepath.Join(o.dir, "prometheus.yml"), "--log.level=warn", "--web.listen-address=" + o.address.String(),
		"--storage.tsdb.path=" + data, "--storage.tsdb.retention.time=6h", "--storage.tsdb.retention.size=256MB",
	}, args...)...)
	cmd.Dir = o.dir
	_, err := l.launch(name, cmd, data+".log")
	return err
}

// serveDemo serves until the demo ends; a listener does not break before.
func serveDemo(l net.Listener, h http.Handler) {
	_ = (&http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}).Serve(l)
}

// proxy passes requests from outside on to a server in the observer's namespace.
func (o *demoObserver) proxy(address netip.AddrPort) http.Handler {
	target := &url.URL{Scheme: "http", Host: address.String()}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		Transport: o.client.Transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "not answering (yet): "+err.Error(), http.StatusBadGateway)
		},
	}
}

// dial connects from inside the observer's namespace.
func (o *demoObserver) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = o.ns.Do(func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// get gets a page of Prometheus.
func (o *demoObserver) get(ctx context.Context, page string) (body []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.address.String()+page, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return body, resp.StatusCode, err
}

// ask asks Prometheus' HTTP API and decodes the data of its answer.
func (o *demoObserver) ask(ctx context.Context, endpoint string, params url.Values, data any) error {
	body, status, err := o.get(ctx, path.Join("/api/v1", endpoint)+"?"+params.Encode())
	if err != nil {
		return err
	}
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("prometheus: status %d: %.100s", status, body)
	}
	if answer.Error != "" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return nil
}

// sample is one result of an instant query.
type sample struct {
	Metric map[string]string
	Value  [2]any // Unix time, and the value as text
}

func (s sample) value() float64 {
	text, _ := s.Value[1].(string)
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0 // it is a number by the API's own definition
	}
	return f
}

// query evaluates an expression now.
func (o *demoObserver) query(ctx context.Context, expr string) ([]sample, error) {
	var data struct{ Result []sample }
	err := o.ask(ctx, "query", url.Values{"query": {expr}}, &data)
	return data.Result, err
}

// watch waits until Prometheus scrapes every gateway and has evaluated the rules.
func (l *demoLab) watch(ctx context.Context, say *narrator) error {
	if l.observer == nil {
		return nil
	}
	say.title("Prometheus looks on")
	rules := 0
	if err := netns.WaitFor(ctx, 200*time.Millisecond, "Prometheus to scrape all gateways", func() error {
		up, err := l.observer.query(ctx, "up == 1")
		if err != nil {
			return err
		}
		if len(up) != len(l.sites) {
			return fmt.Errorf("it scrapes %d of %d", len(up), len(l.sites))
		}
		rules, err = l.observer.rulesWell(ctx)
		return err
	}); err != nil {
		return err
	}
	l.observer.findAlerts(ctx)
	say.step("it scrapes %s each second, and evaluates %s", plural(len(l.sites), "gateway"), plural(rules, "rule"))
	say.printf("%s", l.observer.where(say.p))
	return nil
}

// findAlerts finds the page of alerts: Debian builds Prometheus with its old user interface, which has other paths.
func (o *demoObserver) findAlerts(ctx context.Context) {
	o.alerts = "/alerts"
	if _, status, err := o.get(ctx, o.alerts); err == nil && status == http.StatusNotFound {
		o.alerts = "/classic/alerts"
	}
}

// rulesWell counts Prometheus' rules, and is an error if none has been evaluated yet or one could not be. Some take a minute to have
// their turn.
func (o *demoObserver) rulesWell(ctx context.Context) (n int, err error) {
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := o.ask(ctx, "rules", nil, &data); err != nil {
		return 0, err
	}
	well := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			n++
			switch r.Health {
			case "ok":
				well++
			case "err":
				return 0, fmt.Errorf("rule %s: %s", r.Name, r.LastError)
			}
		}
	}
	if well == 0 {
		return 0, fmt.Errorf("it has evaluated none of %s", plural(n, "rule"))
	}
	return n, nil
}

// witness checks that what breakOne broke is to be seen in Prometheus.
func (l *demoLab) witness(ctx context.Context, say *narrator) error {
	if l.observer == nil {
		return nil
	}
	say.title("What Prometheus saw")
	a, b := l.links[0].a, l.links[0].b
	expr := fmt.Sprintf("sum by (reason) (sitewire_bgp_session_downs_total{instance=%q, peer=%q} > 0)", a.name, b.name)
	return netns.WaitFor(ctx, 200*time.Millisecond, "the session's end in Prometheus", func() error {
		downs, err := l.observer.query(ctx, expr)
		if err != nil {
			return err
		}
		if len(downs) == 0 {
			return errors.New("nothing yet")
		}
		for _, d := range downs {
			say.step("%s = %.0f (%s)", expr, d.value(), d.Metric["reason"])
		}
		return nil
	})
}

// where tells what can be looked at, and where.
func (o *demoObserver) where(p painter) string {
	t := newTable(left("  LOOK AT"), left("URL"))
	prometheus := o.shown[demoPrometheus]
	t.row(text("  metrics"), text(prometheus))
	t.row(text("  alerts"), text(prometheus+o.alerts))
	var grafanaDied error
	if o.grafana != nil {
		if grafanaDied = o.grafana.dead(); grafanaDied == nil {
			t.row(text("  dashboards"), text(o.shown[demoGrafana]))
		}
	}
	var b strings.Builder
	_ = t.write(&b, p, true) // memory does not fail
	switch {
	case grafanaDied != nil:
		fmt.Fprintf(&b, "  %v; with --keep its log is kept\n", grafanaDied)
	case o.grafana == nil:
		fmt.Fprintf(&b, "  Grafana is not installed. In one of yours: a Prometheus data source for %s, and import %s%sgrafana/*.json\n",
			prometheus, prometheus, demoFiles)
	}
	return b.String()
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sitewire/topologies/netns"
)

// observed is the demo's lab with its Prometheus, inside the test.
type observed struct {
	*testing.T
	lab   *demoLab
	start time.Time
	// settled is when nothing was pending for the first time.
	settled time.Time
	asked   map[string]bool // expressions, by where they are
}

// TestObserve looks at three sites through a real Prometheus with the rules as they are shipped: which alerts fire when a tunnel is cut,
// that they clear, and what every panel of every dashboard shows after that.
//
// It takes the time that the alerts wait for, about four minutes, in which the machine has little to do: other tests run meanwhile.
func TestObserve(t *testing.T) {
	if testing.Short() {
		t.Skip("alerts wait for minutes")
	}
	observable(t)
	need(t, map[string]func() error{"program": program("promtool", "prometheus")})
	t.Parallel()
	if !inLab(t) {
		return
	}
	o := newObserved(t)
	second := o.startNative()
	o.scrapesAreClean()
	o.quiet()
	o.operate()
	due := o.cutTunnel(o.lab.links[0])
	o.noOthers(due)
	o.restart(o.lab.sites[2])
	for x := range o.everSince("firing") { // a restart is nothing to be called for
		if !due[x] {
			o.Errorf("firing without a reason: %v", x)
		}
	}
	o.native(second)
	o.recorded()
	o.panels()
	for where := range noData {
		if !o.asked[where] {
			o.Errorf("%s is listed as without data, and is not there", where)
		}
	}
	o.Logf("%d expressions, %d of them without data for a reason", len(o.asked), len(noData))
}

func newObserved(t *testing.T) *observed {
	t.Helper()
	lab, err := newDemoLab(true)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &observed{T: t, lab: lab, start: time.Now(), asked: map[string]bool{}}
	t.Cleanup(func() {
		lab.stop()
		l.Close()
		if t.Failed() {
			var b strings.Builder
			lab.printLogs(&b)
			t.Log(b.String())
		}
	})
	if err := lab.startGateways(); err != nil {
		t.Fatal(err)
	}
	if err := lab.startObserving(map[string]net.Listener{demoPrometheus: l}); err != nil {
		t.Fatal(err)
	}
	say := o.mute()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, f := range []func(context.Context, *narrator) error{lab.bringUp, lab.watch, lab.pingAll} {
		if err := f(ctx, say); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func (o *observed) mute() *narrator {
	return &narrator{errWriter: errWriter{w: io.Discard}, start: o.start}
}

func (o *observed) until(limit time.Duration, what string, f func() error) {
	o.Helper()
	ctx, cancel := context.WithTimeout(o.Context(), limit)
	defer cancel()
	ctx, forget := o.lab.alive(ctx)
	defer forget()
	if err := netns.WaitFor(ctx, time.Second, what, f); err != nil {
		o.Fatal(err)
	}
}

func (o *observed) query(expr string) []sample {
	o.Helper()
	s, err := o.lab.observer.query(o.Context(), expr)
	if err != nil {
		o.Fatalf("%s: %v", expr, err)
	}
	return s
}

// scrapesAreClean: promtool has nothing to say about what the gateways expose.
func (o *observed) scrapesAreClean() {
	for _, s := range o.lab.sites {
		body, err := o.scrape(s)
		if err != nil {
			o.Fatal(err)
		}
		cmd := o.lab.observer.ns.Command(o.Context(), "promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(body)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			o.Errorf("promtool check metrics, of %s: %v\n%s", s.name, err, out)
		}
	}
}

func (o *observed) scrape(s *demoSite) (string, error) {
	resp, err := o.lab.observer.client.Get("http://" + s.metrics.String() + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// alert is what an engineer would be told; the other labels only repeat it.
type alert struct{ name, instance, about string }

func (a alert) String() string { return fmt.Sprintf("%s at %s about %s", a.name, a.instance, a.about) }

func alertOf(labels map[string]string) alert {
	about := labels["peer"]
	if about == "" {
		about = labels["site"]
	}
	return alert{strings.TrimPrefix(labels["alertname"], "Sitewire"), labels["instance"], about}
}

// alerts returns those in a state, pending or firing.
func (o *observed) alerts(state string) (map[alert]bool, error) {
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	if err := o.lab.observer.ask(o.Context(), "alerts", nil, &data); err != nil {
		return nil, err
	}
	all := map[alert]bool{}
	for _, a := range data.Alerts {
		if a.State == state {
			all[alertOf(a.Labels)] = true
		}
	}
	return all, nil
}

// quiet: nobody is called while all is well, nor, once what was not up yet at the first looks has been seen to be up, about to be.
func (o *observed) quiet() {
	o.until(time.Minute, "nothing to wait for", func() error {
		got, err := o.alerts("pending")
		if err == nil && len(got) > 0 {
			err = fmt.Errorf("pending: %v", slices.Collect(maps.Keys(got)))
		}
		return err
	})
	got, err := o.alerts("firing")
	if err != nil {
		o.Fatal(err)
	}
	if len(got) > 0 {
		o.Errorf("all is well, and firing: %v", slices.Collect(maps.Keys(got)))
	}
	o.settled = time.Now()
}

// cutTunnel makes a path drop everything, silently, until all alerts that are due fire, and mends it: they clear. It returns those.
func (o *observed) cutTunnel(path *demoLink) (want map[alert]bool) {
	a, b := path.a.name, path.b.name
	want = map[alert]bool{}
	for _, ends := range [][2]string{{a, b}, {b, a}} {
		// The other site is still reached, through the third one, so nothing that is about routes or traffic may fire.
		for _, name := range []string{"TunnelDown", "SiteIsolated"} {
			want[alert{name, ends[0], ends[1]}] = true
		}
	}
	if err := o.lab.cut(path); err != nil {
		o.Fatal(err)
	}
	cut := time.Now()
	told := map[alert]bool{}
	o.until(6*time.Minute, "the alerts", func() error {
		got, err := o.alerts("firing")
		if err != nil {
			return err
		}
		for x := range got {
			if !told[x] {
				o.Logf("%4.0f s after the cut: %v", time.Since(cut).Seconds(), x)
				told[x] = true
			}
		}
		var missing []string
		for x := range want {
			if !got[x] {
				missing = append(missing, x.String())
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			return fmt.Errorf("not fired: %s", strings.Join(missing, ", "))
		}
		return nil
	})
	if err := o.lab.heal(path); err != nil {
		o.Fatal(err)
	}
	healed := time.Now()
	o.until(time.Minute, "the alerts to clear", func() error {
		got, err := o.alerts("firing")
		if err == nil && len(got) > 0 {
			err = fmt.Errorf("still firing: %v", slices.Collect(maps.Keys(got)))
		}
		return err
	})
	o.until(time.Minute, "what may pass to have passed", func() error {
		got, err := o.alerts("pending")
		maps.DeleteFunc(got, func(x alert, _ bool) bool { return mayPass[x.name] == "" })
		if err == nil && len(got) > 0 {
			err = fmt.Errorf("still pending: %v", slices.Collect(maps.Keys(got)))
		}
		return err
	})
	o.Logf("all clear %.0f s after the path was mended", time.Since(healed).Seconds())
	return want
}

// mayPend are alerts that a cut of a minute rightly makes Prometheus wait for, and that must not fire.
var mayPend = map[string]string{
	"BGPSessionDown":   "the session ends before the tunnel counts as dead, which explains it",
	"TunnelPacketLoss": "a cut of a minute in a window of five loses more than a twentieth",
}

// mayPass are alerts that one look may find about to fire between two states, and the next looks must not.
var mayPass = map[string]string{
	"BFDDown":       "the session is up before its BFD",
	"BGPNoPrefixes": "the session is up before its prefixes come",
}

// noOthers: nobody was called, or about to be, but for a reason. Prometheus remembers what was so between two looks.
func (o *observed) noOthers(want map[alert]bool) {
	for x, state := range o.everSince("firing", "pending") {
		switch why := cmp.Or(mayPend[x.name], mayPass[x.name]); {
		case want[x]:
		case state == "pending" && why != "":
			o.Logf("pending, as it may be: %v: %s", x, why)
		default:
			o.Errorf("%s without a reason: %v", state, x)
		}
	}
}

// everSince returns what has been in one of the states since the lab began, or since it was quiet for those that are pending, by the
// first of the states that it was in.
func (o *observed) everSince(states ...string) map[alert]string {
	all := map[alert]string{}
	for _, state := range slices.Backward(states) {
		window := time.Hour
		if state == "pending" {
			window = time.Since(o.settled).Truncate(time.Second)
		}
		for _, s := range o.query(fmt.Sprintf(`max by (alertname, instance, peer, site) (max_over_time(ALERTS{alertstate=%q}[%ds]))`, state, int(window.Seconds()))) {
			all[alertOf(s.Metric)] = state
		}
	}
	return all
}

// operate does what an operator does now and then, so that the API has something to count.
func (o *observed) operate() {
	for _, s := range o.lab.sites {
		if _, err := s.status(o.Context()); err != nil {
			o.Fatal(err)
		}
		if _, err := s.client().post(o.Context(), "/v1/reload", nil); err != nil {
			o.Fatal(err)
		}
	}
}

// restart ends a gateway in good order and starts it again, as for an upgrade: its neighbours get a NOTIFICATION, and dashboards mark it.
func (o *observed) restart(s *demoSite) {
	i := slices.IndexFunc(o.lab.processes, func(p *demoProcess) bool { return p.site && p.name == s.name })
	old := o.lab.processes[i]
	o.lab.processes = slices.Delete(o.lab.processes, i, i+1) // it may end
	if err := old.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		o.Fatal(err)
	}
	<-old.ended
	if err := o.lab.startGateway(s); err != nil {
		o.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(o.Context(), time.Minute)
	defer cancel()
	if err := o.lab.bringUp(ctx, o.mute()); err != nil {
		o.Fatal(err)
	}
	expr := fmt.Sprintf(`count(sitewire_bgp_session_establishments_total{peer=%q} > 1)`, s.name)
	o.until(30*time.Second, expr, func() error {
		if got := o.query(expr); len(got) != 1 || int(got[0].value()) != len(o.lab.sites)-1 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// recorded: every recording rule has made series.
func (o *observed) recorded() {
	var data struct {
		Groups []struct {
			Rules []struct{ Type, Name string }
		}
	}
	if err := o.lab.observer.ask(o.Context(), "rules", nil, &data); err != nil {
		o.Fatal(err)
	}
	seen := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.Type != "recording" {
				continue
			}
			seen++
			o.shows("rule "+r.Name, `{__name__="`+r.Name+`"}`)
		}
	}
	if seen == 0 {
		o.Error("no recording rules")
	}
}

// values evaluates an expression over the life of the lab and counts the numbers that it gave.
func (o *observed) values(expr string) (numbers int, err error) {
	const step = 5 * time.Second
	end := time.Now()
	var data struct {
		Result []struct{ Values [][2]any }
	}
	err = o.lab.observer.ask(o.Context(), "query_range", url.Values{
		"query": {expr}, "step": {step.String()},
		"start": {fmt.Sprint(end.Add(-end.Sub(o.start).Round(step)).Unix())}, "end": {fmt.Sprint(end.Unix())},
	}, &data)
	for _, series := range data.Result {
		for _, v := range series.Values {
			if v[1] != "NaN" {
				numbers++
			}
		}
	}
	return numbers, err
}

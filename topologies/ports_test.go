package topologies

import (
	"strings"
	"testing"
	"time"
)

func TestFindPort(t *testing.T) {
	w, err := Build("dual-hub", 0)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"branch1:eth1": "eth1", "branch1:lan": "eth1", "branch1:uplink1": "eth2", "branch1:uplink2": "eth3",
		"branch1:isp-b": "eth3", "branch1:branch1-host": "eth1", "isp-a:branch1": "eth2", "hub1:uplink": "eth1", "hub1:core": "eth2",
	} {
		p, err := w.FindPort(text)
		if err != nil || p.Interface != want || p.Node.Name != strings.Split(text, ":")[0] {
			t.Errorf("%s is %s (%v), want %s", text, p.Interface, err, want)
		}
	}
	for text, want := range map[string]string{
		"branch1": "write NODE:INTERFACE", "nowhere:eth1": "there are isp-a, isp-b", "branch1:uplink": "eth2 (isp-a, uplink1)",
	} {
		if _, err := w.FindPort(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestAliases: no alias leads to another port, in any network.
func TestAliases(t *testing.T) {
	for _, e := range Entries() {
		w, err := Build(e.Name, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range w.Nodes {
			for _, p := range w.Ports(n) {
				for _, a := range w.Aliases(p) {
					q, err := w.FindPort(n.Name + ":" + a)
					if err != nil || q.Interface != p.Interface {
						t.Errorf("%s: %s:%s is %s (%v), not %s", w.Name, n.Name, a, q.Interface, err, p.Interface)
					}
				}
			}
		}
	}
}

func TestImpairmentText(t *testing.T) {
	for want, i := range map[string]Impairment{
		"":                                  {},
		"20 Mbit/s, 40 ms ± 5 ms, 1 % lost": {Rate: 20e6, Delay: 40 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 1},
		"512 kbit/s, 0.5 ms":                {Rate: 512e3, Delay: 500 * time.Microsecond},
		"cut":                               {Cut: true},
		"2.5 Gbit/s, 1 % reordered, 0.1 % twice, nothing over 1280 bytes": {Rate: 25e8, Reorder: 1, Duplicate: 0.1, Hole: 1280},
	} {
		if got := i.String(); got != want {
			t.Errorf("%+v prints %q, want %q", i, got, want)
		}
	}
	for text, want := range map[string]uint64{"20mbit": 20e6, "512kbit": 512e3, "1.5Gbit": 15e8, "9600bit": 9600, "20": 0, "mbit": 0, "-1mbit": 0, "20mb": 0} {
		if got, err := ParseRate(text); got != want || (err == nil) != (want != 0) {
			t.Errorf("rate %s is %d (%v), want %d", text, got, err, want)
		}
	}
}

package config

import (
	"strings"
	"testing"
	"time"
)

// withBFD is the smallest file with more in it: for the site's bgp block, the peer's, and a neighbour.
func withBFD(site, peer, neighbour string) string {
	return `site: fra
asn: 4242420001
announce: [172.20.1.0/27]
bgp: {` + site + `}
wireguard:
  private_key: ${file:/etc/sitewire/private.key}
peers:
  nyc:
    public_key: OAFNGbXRwvUgCQX6AWStGeMmhQJXz2smTsVt3R/NTkM=
    endpoint: nyc.example.net:51820
    asn: 4242420002
    policy: dn42
    bgp: {` + peer + `}
neighbours:
  core: { address: 10.0.0.2, asn: 65000, policy: lan` + neighbour + ` }
`
}

func TestBFD(t *testing.T) {
	wired, metered := BFD{200 * time.Millisecond, 3}, BFD{time.Second, 3}
	for name, c := range map[string]struct {
		site, peer, neighbour string
		nyc, core             BFD
		warning               string
	}{
		"off by default":     {"", "", "", BFD{}, BFD{}, ""},
		"site":               {" bfd: wired ", "", "", wired, wired, ""},
		"one of its own":     {" bfd: wired ", " bfd: metered ", ", bfd: off", metered, BFD{}, ""},
		"in numbers":         {"", " bfd: { interval: 300ms, multiplier: 5 } ", ", bfd: { interval: 1s }", BFD{300 * time.Millisecond, 5}, metered, ""},
		"multihop":           {"", "", ", multihop: 3, bfd: wired", BFD{}, BFD{}, "bfd is off for this session"},
		"multihop, by site":  {" bfd: wired ", "", ", multihop: 3", wired, BFD{}, "bgp.bfd does not apply"},
		"multihop, and off":  {" bfd: wired ", "", ", multihop: 3, bfd: off", wired, BFD{}, ""},
		"a session that has": {" bfd: off ", " bfd: wired ", "", wired, BFD{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := load(t, withBFD(c.site, c.peer, c.neighbour))
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Peers[0].Sessions[0].BFD; got != c.nyc {
				t.Errorf("peer: %v, want %v", got, c.nyc)
			}
			if got := cfg.Neighbours[0].Session.BFD; got != c.core {
				t.Errorf("neighbour: %v, want %v", got, c.core)
			}
			var warned []string
			for _, w := range cfg.Warnings {
				warned = append(warned, w.String())
			}
			if all := strings.Join(warned, "\n"); c.warning != "" && (!strings.Contains(all, c.warning) || !strings.Contains(all, "sitewire.yaml:15:")) ||
				c.warning == "" && strings.Contains(all, "bfd") {
				t.Errorf("warnings %q, want %q, with its place", all, c.warning)
			}
		})
	}
}

// What is wrong is refused with its place.
func TestBFDRefused(t *testing.T) {
	for value, want := range map[string]string{
		"fast":                                  "wired",
		"{ interval: 10ms }":                    "50ms",
		"{ interval: 2m }":                      "1m0s",
		"{ multiplier: 3 }":                     "interval",
		"{ interval: 300ms, multiplier: 1 }":    "2 to 50",
		"{ interval: 300ms, detection: 900ms }": "detection",
	} {
		_, err := load(t, withBFD("", " bfd: "+value+" ", ""))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "sitewire.yaml:13:") {
			t.Errorf("%s: %v, want it refused with %q and its place", value, err, want)
		}
	}
}

func TestMonitored(t *testing.T) {
	text := func(list string) string {
		return withBFD("", "", "") + "metrics: { monitored_prefixes: [" + list + "] }\n"
	}
	c, err := load(t, text("172.20.0.0/14, fd00::/8"))
	if err != nil || len(c.Metrics.Monitored) != 2 {
		t.Fatalf("%v, %v", c, err)
	}
	many := strings.TrimSuffix(strings.Repeat("10.0.0.0/8, ", maxMonitored+1), ", ")
	for list, want := range map[string]string{"10.0.0.0/8, 10.0.0.0/8": "twice", many: "at most 50", "10.0.0.1/8": "host bits"} {
		if _, err := load(t, text(list)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", list, err, want)
		}
	}
}

// Prepending towards an iBGP neighbour would make its own AS refuse the route as a loop.
func TestPrependInside(t *testing.T) {
	text := func(asn string) string {
		return strings.Replace(withBFD("", "", ""), "asn: 65000, policy: lan", "asn: "+asn+", policy: far", 1) + `policies:
  base:
    export:
      - { name: all, action: accept, set: { prepend: 2 } }
  far:
    extends: base
`
	}
	if _, err := load(t, text("65000")); err != nil {
		t.Errorf("towards another AS: %v", err)
	}
	_, err := load(t, text("4242420001"))
	if err == nil || !strings.Contains(err.Error(), "sitewire.yaml:19:54") || !strings.Contains(err.Error(), "core") {
		t.Errorf("%v, want it refused where it says prepend, with the neighbour's name", err)
	}
}

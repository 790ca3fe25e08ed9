package main

import (
	"strings"
	"testing"
	"time"

	"sitewire/bgp/policy"
	"sitewire/bgp/rpki"
	"sitewire/gateway"
)

func TestRenderRPKI(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	ans := gateway.RPKI{Sources: []rpki.Status{
		{Name: "akae", Kind: "server", Table: "default", Target: "192.0.2.1:8282", Up: true, Since: now.Add(-time.Hour), Serial: 17, IPv4: 5, IPv6: 3, Updated: now.Add(-time.Minute)},
		{Name: "flap", Kind: "file", Table: "flap", Target: "/roa.json", Since: now, Skipped: 1, LastError: "no such file"},
		{Name: "gone", Kind: "server", Table: "default", Target: "192.0.2.2:8282", Since: now, Expired: true, Updated: now.Add(-3 * time.Hour)},
	}}
	var b strings.Builder
	if err := renderRPKI(&b, false, ans, now, true); err != nil {
		t.Fatal(err)
	}
	const want = `
NAME  TABLE    SOURCE          STATE    SINCE  SERIAL  IPV4  IPV6  UPDATED  INFO
akae  default  192.0.2.1:8282  up       1h00m      17     5     3    1m00s  -
flap  flap     /roa.json       down        0s       -     0     0        -  1 bad row skipped; no such file
gone  default  192.0.2.2:8282  expired     0s       0     0     0    3h00m  -
`
	if got := b.String(); got != want[1:] {
		t.Errorf("got\n%s", got)
	}
}

func TestPayloadsInForce(t *testing.T) {
	now := time.Now()
	said := rpki.Status{Table: "default", Updated: now}
	expired := rpki.Status{Table: "default", Updated: now, Expired: true}
	for _, c := range []struct {
		sources []rpki.Status
		want    bool
	}{
		{nil, true},
		{[]rpki.Status{said}, true},
		{[]rpki.Status{said, expired}, true},
		{[]rpki.Status{expired}, false},
		{[]rpki.Status{said, {Table: "flap"}}, false},
	} {
		if got := payloadsInForce(&rpki.Snapshot{Sources: c.sources}); got != c.want {
			t.Errorf("%+v: %v", c.sources, got)
		}
	}
}

func TestRenderOrigin(t *testing.T) {
	var b strings.Builder
	e := &errWriter{w: &b}
	renderOrigin(e, false, gateway.OriginInfo{Table: policy.DefaultTable, Validity: policy.Invalid, Payloads: []string{"10.0.0.0/8 max 24 AS1"}})
	renderOrigin(e, false, gateway.OriginInfo{Table: "flap"})
	const want = "              origin invalid: 10.0.0.0/8 max 24 AS1\n              origin not-found in table flap\n"
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

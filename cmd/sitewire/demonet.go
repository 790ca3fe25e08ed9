package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"sitewire/gateway/wg"
	"sitewire/topologies/netns"
)

// demoLab is three sites around an internet. It is owned by the goroutine that runs the demo.
type demoLab struct {
	internet  *netns.NS
	sites     []*demoSite
	links     []*demoLink
	bin       string        // directory of commands that is visible in all namespaces
	observer  *demoObserver // nil unless asked for
	processes []*demoProcess
}

// demoLink is the path through the internet between two sites: a network of its own, so that it can be cut alone.
type demoLink struct {
	name  string // of the switch
	a, b  *demoSite
	wan   netip.Prefix
	ports [2]string // of the switch, towards a and b
}

// addr is the outer address of a site on this path.
func (k *demoLink) addr(s *demoSite) netip.Addr { return hostOf(k.wan, byte(s.number)) }

// other is the site at the other end.
func (k *demoLink) other(s *demoSite) *demoSite {
	if s == k.a {
		return k.b
	}
	return k.a
}

// demoSite is a gateway and a host on its LAN.
type demoSite struct {
	name       string
	number     int // 1, 2, 3: a part of all its addresses
	asn        uint32
	key        wg.Secret
	lan4, lan6 netip.Prefix
	announce6  netip.Prefix
	gw, lan    *netns.NS
	metrics    netip.AddrPort // where the gateway is scraped, if somebody observes
}

// demoBasePort is the first WireGuard port: the tunnel to site n is at demoBasePort + n.
const demoBasePort = 51820

// hosts of a LAN: the gateway is 1, the one that pings is 10.
func (s *demoSite) host4() netip.Addr { return hostOf(s.lan4, 10) }
func (s *demoSite) host6() netip.Addr { return hostOf(s.lan6, 10) }

// dir holds the site's files; its processes see it as /run/sitewire.
func (s *demoSite) dir() string { return filepath.Join(s.gw.RunDir(), "sitewire") }

func (s *demoSite) client() *client { return newClient(filepath.Join(s.dir(), "sitewire.sock")) }

// hostOf returns the address of a network whose last byte is n.
func hostOf(p netip.Prefix, n byte) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] = n
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// newDemoLab makes namespaces, cables and configurations. Everything goes away with this process.
func newDemoLab(observe bool) (*demoLab, error) {
	l := &demoLab{}
	var err error
	if l.internet, err = netns.New("internet"); err != nil {
		return nil, err
	}
	// dn42's ranges inside, documentation networks (RFC 5737) outside.
	for i, name := range []string{"fra", "nyc", "sin"} {
		n := i + 1
		s := &demoSite{
			name: name, number: n, asn: 4242420000 + uint32(n),
			lan4:      netip.MustParsePrefix(fmt.Sprintf("172.20.%d.0/24", n)),
			lan6:      netip.MustParsePrefix(fmt.Sprintf("fd42:%d::/64", n)),
			announce6: netip.MustParsePrefix(fmt.Sprintf("fd42:%d::/48", n)),
		}
		if s.key, err = wg.NewPrivateKey(); err != nil {
			return nil, err
		}
		if err := s.makeLAN(); err != nil {
			return nil, err
		}
		l.sites = append(l.sites, s)
	}
	fra, nyc, sin := l.sites[0], l.sites[1], l.sites[2]
	l.links = []*demoLink{
		{name: "fra-nyc", a: fra, b: nyc, wan: netip.MustParsePrefix("192.0.2.0/24")},
		{name: "nyc-sin", a: nyc, b: sin, wan: netip.MustParsePrefix("198.51.100.0/24")},
		{name: "sin-fra", a: sin, b: fra, wan: netip.MustParsePrefix("203.0.113.0/24")},
	}
	for _, k := range l.links {
		if err := k.wire(l.internet); err != nil {
			return nil, err
		}
	}
	if observe {
		if err := l.addObserver(); err != nil {
			return nil, err
		}
	}
	for _, s := range l.sites {
		if err := s.writeConfig(l.links); err != nil {
			return nil, fmt.Errorf("configuration of %s: %w", s.name, err)
		}
	}
	return l, l.makeCommands()
}

// makeLAN makes the site's namespaces and the cable between them.
func (s *demoSite) makeLAN() (err error) {
	if s.gw, err = netns.New(s.name); err != nil {
		return err
	}
	if s.lan, err = netns.New(s.name + "-lan"); err != nil {
		return err
	}
	if err := s.gw.Forward(); err != nil {
		return err
	}
	gw4, gw6 := hostOf(s.lan4, 1), hostOf(s.lan6, 1)
	if err := netns.Link(s.gw, "lan0", s.lan, "eth0", netns.LinkOpts{
		AddrsA: []netip.Prefix{netip.PrefixFrom(gw4, 24), netip.PrefixFrom(gw6, 64)},
		AddrsB: []netip.Prefix{netip.PrefixFrom(s.host4(), 24), netip.PrefixFrom(s.host6(), 64)},
	}); err != nil {
		return err
	}
	return errors.Join(
		s.lan.Route(netip.MustParsePrefix("0.0.0.0/0"), gw4, "eth0"),
		s.lan.Route(netip.MustParsePrefix("::/0"), gw6, "eth0"),
	)
}

// wire makes the path's switch in the internet and plugs both sites in: fra's interface towards nyc is wan-nyc.
func (k *demoLink) wire(internet *netns.NS) error {
	if err := netns.Bridge(internet, k.name); err != nil {
		return err
	}
	for i, s := range []*demoSite{k.a, k.b} {
		dev := "wan-" + k.other(s).name
		k.ports[i] = netns.PortName(s.gw, dev)
		if err := netns.Attach(internet, k.name, s.gw, dev, netns.LinkOpts{
			AddrsA: []netip.Prefix{netip.PrefixFrom(k.addr(s), k.wan.Bits())},
		}); err != nil {
			return err
		}
	}
	return nil
}

// demoConfig is a site's file: what an operator would write by hand, but for the short timers.
var demoConfig = template.Must(template.New("sitewire.yaml").Parse(`site: {{.Name}}
asn: {{.ASN}}
router_id: {{.RouterID}}
announce: [{{.LAN4}}, {{.LAN6}}{{if .Observed}}{{with .Stolen}}, {{.}}{{end}}{{end}}]
wireguard:
  private_key: ${file:/run/sitewire/private.key}
  backend: userspace{{if .Observed}}
metrics:
  listen: {{.Metrics}}
  monitored_prefixes: [{{range $i, $p := .Monitored}}{{if $i}}, {{end}}{{$p}}{{end}}]
  device_counters: true
  endpoint_info: true
probe:
  interval: 2s             # as often as this only to see something soon
  timeout: 1s
  mtu: true
rpki:
  files:
    demo: /run/sitewire/roa.json{{end}}
bgp:
  hold_time: 3s            # the demo must not wait 90 s for a dead neighbour
  keepalive: 1s
  connect_retry: 2s{{if .Observed}}
  bfd: { interval: 500ms, multiplier: 4 }{{end}}
routes:
  source_ipv4: {{.Source4}}
  source_ipv6: {{.Source6}}
peers:{{range .Peers}}
  {{.Name}}:
    public_key: {{.PublicKey}}
    endpoint: {{.Endpoint}}
    listen_port: {{.ListenPort}}
    keepalive: 5s
    dead_after: 15s
    asn: {{.ASN}}
    policy: dn42{{end}}
`))

func (s *demoSite) writeConfig(links []*demoLink) error {
	type peerData struct {
		Name, PublicKey, Endpoint string
		ListenPort                int
		ASN                       uint32
	}
	data := struct {
		Name             string
		ASN              uint32
		RouterID         netip.Addr
		LAN4, LAN6       netip.Prefix
		Source4, Source6 netip.Addr
		Peers            []peerData
		Observed         bool
		Metrics          netip.AddrPort
		Stolen           string
		Monitored        []netip.Prefix
	}{s.name, s.asn, hostOf(s.lan4, 1), s.lan4, s.announce6, hostOf(s.lan4, 1), hostOf(s.lan6, 1), nil, s.metrics.IsValid(), s.metrics, s.stolen(), nil}
	for _, k := range links {
		data.Monitored = append(data.Monitored, k.a.lan4) // each site is an end a of one path
		if k.a == s || k.b == s {
			o := k.other(s)
			data.Peers = append(data.Peers, peerData{
				o.name, o.key.Public().String(), fmt.Sprintf("%s:%d", k.addr(o), demoBasePort+s.number), demoBasePort + o.number, o.asn,
			})
		}
	}
	var b bytes.Buffer
	if err := demoConfig.Execute(&b, data); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return err
	}
	if err := writeSecret(filepath.Join(s.dir(), "private.key"), s.key); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir(), "sitewire.yaml"), b.Bytes(), 0o600)
}

// stolen is a prefix that the third site announces and that belongs to somebody else, so that those who observe see a refusal.
func (s *demoSite) stolen() string {
	if s.number != 3 {
		return ""
	}
	return demoStolen.String()
}

// startGateways starts `sitewire run` at each site.
func (l *demoLab) startGateways() error {
	for _, s := range l.sites {
		if err := l.startGateway(s); err != nil {
			return err
		}
	}
	return nil
}

func (l *demoLab) startGateway(s *demoSite) error {
	// The gateway outlives an interrupted tour: stop ends it.
	cmd := s.gw.Command(context.Background(), filepath.Join(l.bin, "sitewire"), "run", "--config", "/run/sitewire/sitewire.yaml")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET=", socketEnv+"=")
	p, err := l.launch(s.name, cmd, filepath.Join(s.dir(), "log"))
	if err == nil {
		p.site = true
	}
	return err
}

// cut drops all packets of a path, silently: no link goes down and no ICMP error tells the ends.
func (l *demoLab) cut(k *demoLink) error {
	return errors.Join(l.internet.Cut(k.ports[0], netns.In), l.internet.Cut(k.ports[1], netns.In))
}

// heal mends what cut cut.
func (l *demoLab) heal(k *demoLink) error {
	return errors.Join(l.internet.Heal(k.ports[0]), l.internet.Heal(k.ports[1]))
}

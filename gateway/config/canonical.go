package config

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"sitewire/bgp/policy"
)

// setting is one value of one object, as it is in force: "peer nyc", "endpoint", "192.0.2.1:51820".
type setting struct {
	object, key string
	value       string // as printed; "***" for secrets
	secret      string // of a secret: the value itself, for comparison only
}

// settings returns everything that the configuration says, in a fixed order: the gateway's own values, then policies,
// peers and neighbours by name. Values that nothing was said about are left out.
func (c *Config) settings() []setting {
	var out []setting
	object := ""
	add := func(key string, value any) {
		if s := format(value); s != "" {
			out = append(out, setting{object: object, key: key, value: s})
		}
	}
	secret := func(key, value string) {
		if value != "" {
			out = append(out, setting{object: object, key: key, value: hidden, secret: value})
		}
	}
	add("site", c.Site)
	add("asn", c.ASN)
	add("router_id", c.RouterID)
	add("log.level", strings.ToLower(c.Log.Level.String()))
	add("log.format", c.Log.Format)
	add("state_dir", c.StateDir)
	add("socket", c.Socket)
	add("metrics.listen", cmp.Or(c.Metrics.Listen, "off"))
	add("metrics.web_config", c.Metrics.WebConfig)
	add("metrics.monitored_prefixes", joined(c.Metrics.Monitored))
	add("metrics.device_counters", strconv.FormatBool(c.Metrics.DeviceCounters))
	add("metrics.endpoint_info", strconv.FormatBool(c.Metrics.EndpointInfo))
	w := c.WireGuard
	add("wireguard.backend", string(w.Backend))
	if !w.PrivateKey.IsZero() {
		secret("wireguard.private_key", w.PrivateKey.Reveal())
		add("wireguard.public_key", w.PublicKey.String())
	}
	add("wireguard.device", w.Device)
	add("wireguard.listen_port", w.ListenPort)
	add("wireguard.fwmark", fmt.Sprintf("%#x", w.FirewallMark))
	add("wireguard.mtu", w.MTU)
	add("wireguard.stats_share", w.StatsShare)
	add("probe.interval", cmp.Or(format(c.Probe.Interval), "off"))
	add("probe.timeout", c.Probe.Timeout)
	add("probe.mtu", strconv.FormatBool(c.Probe.MTU))
	b := c.BGP
	add("bgp.port", b.Port)
	add("bgp.listen", joined(b.Listen))
	add("bgp.hold_time", b.HoldTime)
	add("bgp.keepalive", b.Keepalive)
	add("bgp.send_hold_time", sendHold(b.SendHoldTime))
	add("bgp.connect_retry", b.ConnectRetry)
	add("bgp.graceful_restart", strconv.FormatBool(b.GracefulRestart))
	add("bgp.restart_time", b.RestartTime)
	add("bgp.max_paths", b.MaxPaths)
	add("bgp.bfd", b.BFD.String())
	r := c.Routes
	add("routes.table", r.Table)
	add("routes.metric", r.Metric)
	add("routes.protocol", r.Protocol)
	add("routes.source_ipv4", r.SourceIPv4)
	add("routes.source_ipv6", r.SourceIPv6)
	add("routes.unreachable", strconv.FormatBool(r.Unreachable))
	add("routes.nexthop_objects", strconv.FormatBool(r.NexthopObjects))
	add("routes.nexthop_compat_off", strconv.FormatBool(r.NexthopCompatOff))
	add("routes.max_routes", r.MaxRoutes)
	add("routes.compress_above", r.CompressAbove)
	add("routes.reconcile_every", r.ReconcileEvery)
	add("routes.sweep_after", r.SweepAfter)
	add("rpki.refresh", c.RPKI.Refresh)
	add("rpki.expire", c.RPKI.Expire)
	for _, s := range c.RPKI.Sources {
		object = "rpki " + s.Name
		add("address", s.Address)
		add("path", s.Path)
		add("table", s.Table)
	}
	for _, a := range c.Announce {
		object = "announce " + a.Prefix.String()
		add("communities", cmp.Or(strings.Join(a.Communities, ", "), "none"))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Policies)) {
		if slices.Contains(policy.Profiles(), name) {
			continue
		}
		object = "policy " + name
		addPolicy(add, c.Policies[name])
	}
	for _, p := range c.Peers {
		object = "peer " + p.Name
		add("description", p.Description)
		add("public_key", p.PublicKey.String())
		if !p.PresharedKey.IsZero() {
			secret("preshared_key", p.PresharedKey.Reveal())
		}
		if !p.PrivateKey.Equal(w.PrivateKey) {
			secret("private_key", p.PrivateKey.Reveal())
			add("own_public_key", p.OwnKey.String())
		}
		add("endpoint", joined(p.Endpoints))
		add("pin_endpoint", p.PinEndpoint)
		add("device", p.Device)
		add("shared", p.Shared)
		add("listen_port", p.ListenPort)
		add("mtu", p.MTU)
		add("keepalive", p.Keepalive)
		add("dead_after", p.DeadAfter)
		if p.Probe != c.Probe.Interval {
			add("probe", cmp.Or(format(p.Probe), "off"))
		}
		t := p.Tunnel
		add("tunnel.local", t.Local)
		add("tunnel.remote", t.Remote)
		add("tunnel.local_ipv4", t.LocalIPv4)
		add("tunnel.remote_ipv4", t.RemoteIPv4)
		add("tunnel.local_ipv6", t.LocalIPv6)
		add("tunnel.remote_ipv6", t.RemoteIPv6)
		if p.Mode == List {
			add("allowed_ips", cmp.Or(joined(p.Prefixes), "none"))
		} else {
			add("allowed_ips", string(p.Mode))
		}
		for _, s := range p.Sessions {
			addSession(add, secret, "bgp"+strings.TrimPrefix(s.Name, p.Name)+".", s)
		}
	}
	for _, n := range c.Neighbours {
		object = "neighbour " + n.Name
		add("description", n.Description)
		addSession(add, secret, "", n.Session)
	}
	return out
}

func addSession(add func(string, any), secret func(string, string), prefix string, s *Session) {
	add(prefix+"enabled", strconv.FormatBool(!s.Disabled))
	add(prefix+"address", s.Address)
	add(prefix+"local_address", s.LocalAddress)
	add(prefix+"asn", s.ASN)
	add(prefix+"local_asn", s.LocalASN)
	var families []string
	if s.IPv4 {
		families = append(families, policy.FamilyIPv4)
	}
	if s.IPv6 {
		families = append(families, policy.FamilyIPv6)
	}
	add(prefix+"families", strings.Join(families, ", "))
	add(prefix+"extended_next_hop", string(s.ExtendedNextHop))
	add(prefix+"passive", s.Passive)
	add(prefix+"port", s.Port)
	add(prefix+"multihop", s.Multihop)
	secret(prefix+"password", s.Password.Reveal())
	add(prefix+"hold_time", s.HoldTime)
	add(prefix+"keepalive", s.Keepalive)
	add(prefix+"send_hold_time", sendHold(s.SendHoldTime))
	add(prefix+"connect_retry", s.ConnectRetry)
	add(prefix+"route_reflector_client", s.RouteReflectorClient)
	add(prefix+"bfd", s.BFD.String())
	if s.Policy != nil {
		add(prefix+"policy", s.Policy.Name)
	} else {
		add(prefix+"policy", "none")
	}
}

func addPolicy(add func(string, any), p *policy.Policy) {
	add("allow_default", p.AllowDefault)
	add("allow_own_parts", p.AllowOwnParts)
	add("allow_third_party_next_hop", p.AllowThirdPartyNextHop)
	add("max_as_path", p.MaxASPath)
	add("max_prefixes_ipv4", p.MaxPrefixes4)
	add("max_prefixes_ipv6", p.MaxPrefixes6)
	add("warn_at", p.WarnAt)
	for _, rules := range []struct {
		direction string
		list      []policy.Rule
	}{{"import", p.Import}, {"export", p.Export}} {
		for i, r := range rules.list {
			b, err := json.Marshal(r)
			if err != nil {
				panic(err) // a rule is made of numbers and texts
			}
			add(fmt.Sprintf("%s.%d", rules.direction, i+1), string(b))
		}
	}
}

// format prints a value; zero values that mean "not given" give an empty text.
func format(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case bool:
		if v {
			return "true"
		}
	case netip.Addr:
		if v.IsValid() {
			return v.String()
		}
	case time.Duration:
		if v != 0 {
			return v.String()
		}
	default:
		if s := fmt.Sprint(v); s != "0" {
			return s
		}
	}
	return ""
}

func joined[V fmt.Stringer](list []V) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

// Canonical prints the configuration as it is in force: every default filled in, sorted, secrets hidden. Equal
// configurations print equally, however their files were written and divided. It is for people and for comparing,
// not for loading.
func (c *Config) Canonical() []byte {
	var b bytes.Buffer
	object := ""
	for _, s := range c.settings() {
		if s.object != object {
			object = s.object
			fmt.Fprintf(&b, "\n%s\n", object)
		}
		if object != "" {
			b.WriteString("  ")
		}
		fmt.Fprintf(&b, "%s: %s\n", s.key, s.value)
	}
	return b.Bytes()
}

// Hash identifies what Canonical prints, in 48 bits, so that a metric can carry it without loss. Secrets are not part
// of it: a hash of a password in a metric would let people guess.
func (c *Config) Hash() uint64 {
	sum := sha256.Sum256(c.Canonical())
	return binary.BigEndian.Uint64(sum[:8]) >> 16
}

// HashString is Hash as it is shown: twelve hexadecimal digits.
func (c *Config) HashString() string { return fmt.Sprintf("%012x", c.Hash()) }

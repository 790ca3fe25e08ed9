package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// docsIntro is the part of docs/metrics.md that no descriptor can tell.
var docsIntro = `# Metrics

<!-- Made from the descriptors by: go test ./metrics -run TestDocs -update -->

sitewire serves Prometheus metrics at ` + "`http://" + DefaultListen + "/metrics`" + `, on loopback unless configured otherwise, in the
text formats of Prometheus and OpenMetrics and as protocol buffers. They tell who your peers are: let only your monitoring reach them.

A scrape reads what the daemon knows already. It asks neither the kernel nor BGP for anything and holds no lock, so scraping
more often costs a little CPU time and disturbs nothing. However many readers there are:

- Scrapes at the same time share one page. A page that several asked for is given to those who come a little later too, for
  three times as long as it took to make: milliseconds. A single reader always gets a new one.
- ` + strconv.Itoa(maxRequests) + ` scrapes are served at a time (` + strconv.Itoa(maxLibraryRequests) + ` in other formats than those above, ` +
	strconv.Itoa(maxChoiceRequests) + ` with ` + "`name[]`" + `); further ones wait for up to 8 s and
  then get status 503.
- A reader has 10 s to take its page. One that takes longer than 2 s is cut if somebody waits for what it holds.

What you can rely on:

- Names, labels and meanings are an interface: they change only with a note in the release notes.
- A peer or neighbour has all its series, at 0, from the moment it is configured, and none from the moment it is removed.
  Only series with a reason, code or rule that is not known beforehand appear when they are first needed, and of the reasons why a
  session went down those that an operator gives. A gateway with 100 peers that speak both families has about 7,100 series by
  default, and about 10,900 with everything that can be asked for.
- Points in time are exported, not ages: ` + "`time() - sitewire_tunnel_last_handshake_timestamp_seconds`" + ` is the age. 0 is "never".
- Learned prefixes are never labels (but for a short list that you may give), and neither are secrets. Endpoints are exported only if you ask for them.

The label ` + "`peer`" + ` is the configured name of a peer, or of a neighbour that is not behind a tunnel, and is the same for its
tunnel, its BGP sessions and its routes. What is known of it otherwise is in the ` + "`_info`" + ` metrics, to be joined where it is wanted:

` + "```" + `
sitewire_bgp_session_up * on (job, instance, peer) group_left (site, remote_asn) sitewire_bgp_peer_info
` + "```" + `

A peer that has one BGP session for each family has two sessions; ` + "`session`" + ` tells them apart (` + "`nyc/ipv4`, `nyc/ipv6`" + `). For
all others it is the same as ` + "`peer`" + `.

Histograms have a few classic buckets. A Prometheus that was told to use native histograms asks for protocol buffers, and
finds native buckets there as well: schema 3, each one ends 9 % above the one before. So
` + "`histogram_quantile(0.99, rate(sitewire_route_convergence_duration_seconds[5m]))`" + ` is off by less than a tenth anywhere
between 1 µs and 2 min; what is shorter or longer is not told apart.

The rules and dashboards use the classic buckets, so have Prometheus keep both. It drops the classic ones of what it takes as
native, and those panels and alerts then see nothing:

| Prometheus | to take native histograms | to keep the classic ones as well |
|---|---|---|
| 2.40 to 2.44 (Debian 12 has 2.42) | ` + "`--enable-feature=native-histograms`" + ` | not possible: all ` + "`sitewire_…_bucket`" + ` series are gone, so leave the flag off |
| 2.45 to 2.55 | the same | ` + "`scrape_classic_histograms: true`" + ` in the job |
| 3.0 to 3.8 | the same | ` + "`always_scrape_classic_histograms: true`" + ` in the job |
| 3.9 and later | ` + "`scrape_native_histograms: true`" + ` in the job | ` + "`always_scrape_classic_histograms: true`" + ` in the job |

The metrics of the Go runtime (` + "`go_*`" + `), of the process (` + "`process_*`" + `) and of the exporter's own HTTP handler
(` + "`promhttp_*`" + `) are there too.

Recording rules and alerts over them are in [metrics/prometheus](../metrics/prometheus), and for each alert there is
[a runbook](runbooks/README.md).

## TLS and passwords

Before metrics leave the machine, let them ask who reads. The file is the one that all of Prometheus' exporters take
([its format](https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md)); sitewire's
configuration names it, and ` + "`sitewire check`" + ` checks it with everything else:

` + "```yaml" + `
# /etc/sitewire/sitewire.yaml
metrics:
  listen: 10.0.0.1:9587
  web_config: web.yaml       # beside this file
` + "```" + `
` + "```yaml" + `
# /etc/sitewire/web.yaml
tls_server_config:
  cert_file: tls.crt         # beside this file; with the intermediate certificates, if there are any
  key_file: tls.key
basic_auth_users:
  prometheus: "$2y$10$..."   # htpasswd -nBC 10 prometheus
` + "```" + `
` + "```yaml" + `
# prometheus.yml
scrape_configs:
  - job_name: sitewire
    scheme: https
    tls_config:
      ca_file: /etc/prometheus/sitewire-ca.crt
    basic_auth:
      username: prometheus
      password_file: /etc/prometheus/sitewire.password
    static_configs:
      - targets: [10.0.0.1:9587]
` + "```" + `

- The user that sitewire runs as must be able to read all three files; the key and the hashes are nobody else's business
  (` + "`chmod 600`" + `): ` + "`sitewire check`" + ` warns of a key that every user of the machine may read.
- Passwords, headers and certificates are read again for each request and each handshake: renew them in place, by renaming
  the new file over the old one. Whether there is TLS at all, and the rate limit, are settled at the start; so are
  ` + "`listen` and `web_config`" + ` themselves, whose change ` + "`reload`" + ` refuses.
- A file that turns bad while sitewire runs lets nobody in: status 500 and a line in the log, once a minute. At the start it is
  a mistake in the configuration like any other.
- Checking a password is made to cost time (` + "`-C 10`" + `: a twentieth of a second of one core, one password after the other), so
  what was checked is remembered. Where strangers reach the port, add ` + "`rate_limit`" + ` or ask for certificates (` + "`client_auth_type: RequireAndVerifyClientCert`" + `).
`

// labelDocs explains every label and its values.
var labelDocs = map[string]string{
	"backend":        "`kernel` or `userspace`: the implementation of WireGuard",
	"branch":         "branch that the program was built from",
	"code":           "NOTIFICATION error code in the words of RFC 4271; of answers of the API the HTTP status",
	"collector":      "part of the metrics: `process`, `tunnels`, `bgp`, `routes`, `kernel`, `api`, `devices`, `probes`, `rpki`",
	"component":      "part of the daemon: `wireguard`, `bgp`, `rtnetlink`, `api`, `probe`, and `rpki` if there are sources: 0 if the payloads of a table have expired or never came",
	"diagnostic":     "`control_detection_time_expired` (nothing was heard), `neighbor_signaled_session_down` (the neighbour hears nothing, or restarted), `administratively_down` (taken down there on purpose; no failure), or another one of RFC 5880",
	"device":         "name of a WireGuard device",
	"endpoint":       "outer address and port",
	"errno":          "`EEXIST`, `EINVAL`, `ENETUNREACH`, `ENOBUFS`, `ENODEV`, `ENOENT`, `ENOSPC`, `EPERM`, or `other`",
	"family":         "`ipv4` or `ipv6`",
	"goarch":         "processor architecture",
	"goos":           "operating system",
	"goversion":      "version of Go that the program was built with",
	"kind":           "what differs: `route_missing`, `route_extra`, `route_changed`, `allowed_ip_missing`, `allowed_ip_extra`, `allowed_ip_wrong_peer`; counted only: `peer_missing`, `peer_extra` (it stays), `device_changed` (or gone), `rule_missing` (policy rule or firewall table)",
	"level":          "`debug`, `info`, `warn`, `error`",
	"local_asn":      "our AS number",
	"method":         "HTTP method, or `other` for one that HTTP does not have",
	"message":        "`open`, `update`, `notification`, `keepalive`, `route_refresh`",
	"neighbor":       "address of the BGP neighbour",
	"operation":      "what was done: to routes `announce`, `withdraw`, `replace`; by the writer `allow`, `install`, `withdraw`, `disallow`; with the kernel the kind of request",
	"peer":           "configured name of the peer or neighbour",
	"peer_router_id": "BGP identifier of the neighbour, empty until it is known",
	"prefix":         "a prefix of `metrics.monitored_prefixes`",
	"psk":            "`true` if a preshared key is configured",
	"public_key":     "WireGuard public key of the peer",
	"reason":         "why: of sessions that went down GoBGP's reason, or ours: `bfd_down`, `send_hold_timer_expired`, `tunnel_down`, `configuration`, `reset`; of rejected prefixes the policy's rule or the fixed refusal; of prefixes without a route `unresolved` (next hop), `refused` or `down` (tunnel); of BFD packets `ttl` (came over a hop), `invalid`, `authentication`, `unknown_peer`, `discriminator`, `queue_full`, `read_error`",
	"remote_asn":     "AS number of the neighbour",
	"revision":       "commit that the program was built from",
	"route":          "path of the API as registered, never the one that was asked for; `other` for what there is not",
	"router_id":      "our BGP identifier",
	"server":         "configured name of the source of payloads, a cache or a file",
	"session":        "configured name of the BGP session",
	"session_type":   "`ebgp` or `ibgp`",
	"site":           "site that the peer is; our own for neighbours that are not behind a tunnel",
	"snapshot":       "`wireguard`, `bgp`, `fib`",
	"source":         "`bgp`, `static` (configured prefix of a peer), `tunnel` (address in a tunnel), `own` (announced by us)",
	"stage":          "`decide`, `batch`, `allowed_ips`, `fib`, in this order",
	"subcode":        "NOTIFICATION error subcode in the words of RFC 4271, 4486 and 9003; may be empty",
	"subsystem":      "`rtnetlink`, `wireguard`, `nftables`",
	"table":          "number of the routing table",
	"tags":           "build tags of the program",
	"trigger":        "what caused it: of loads of the configuration `start`, `sighup`, `api`, `file`; of comparisons `periodic`, `netlink`, `event`; of failovers what the loss was noticed by: `bfd`, `hold_timer`, `tunnel` (nothing heard through it), `link` (a connection, device or network went), `admin` (a NOTIFICATION or a changed configuration)",
	"tunnel":         "`true` if the neighbour is behind a tunnel",
	"version":        "version of the program",
}

func TestDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString(docsIntro)
	heading, used := "", map[string]bool{}
	for _, m := range sorted(Catalogue()) {
		if m.Group != heading {
			heading = m.Group
			fmt.Fprintf(&b, "\n## %s\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", heading)
		}
		labels := make([]string, len(m.Labels))
		for i, l := range m.Labels {
			used[l] = true
			if labelDocs[l] == "" {
				t.Errorf("label %s of %s is not explained", l, m.Name)
			}
			labels[i] = "`" + l + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, strings.Join(labels, ", "), strings.ReplaceAll(m.Help, "|", `\|`))
	}
	b.WriteString("\n## Labels\n\n| label | values |\n|---|---|\n")
	for _, l := range slices.Sorted(maps.Keys(labelDocs)) {
		if !used[l] {
			t.Errorf("label %s is explained but no metric has it", l)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", l, labelDocs[l])
	}
	golden(t, "../docs/metrics.md", b.String())
}

// sorted keeps the metrics of a heading together, in the order in which headings first appear.
func sorted(all []Metric) []Metric {
	var order []string
	for _, m := range all {
		if !slices.Contains(order, m.Group) {
			order = append(order, m.Group)
		}
	}
	slices.SortStableFunc(all, func(a, b Metric) int {
		return slices.Index(order, a.Group) - slices.Index(order, b.Group)
	})
	return all
}

// Every metric has a type, a heading and a help text that is a sentence; names are unique.
func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range Catalogue() {
		if seen[m.Name] {
			t.Errorf("%s twice", m.Name)
		}
		seen[m.Name] = true
		if m.Group == "" || !strings.HasSuffix(m.Help, ".") {
			t.Errorf("%s: heading %q, help %q", m.Name, m.Group, m.Help)
		}
		if strings.HasSuffix(m.Name, "_total") != (m.Kind == Counter) {
			t.Errorf("%s is a %s", m.Name, m.Kind)
		}
	}
}

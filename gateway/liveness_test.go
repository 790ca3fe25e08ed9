package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

// oneStore is a site with one peer that has no BGP.
const oneStore = `
site: fra
asn: 4242420001
router_id: 172.20.1.1
announce: [172.20.1.0/27]
socket: DIR/sock
wireguard: { private_key: "${file:DIR/private.key}" }
peers:
  store:
    public_key: KEY(store)
    allowed_ips: [10.17.0.0/24]
`

func TestLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, oneStore)
		defer r.stop(false)
		r.wantState("store", wg.TunnelNew, "waiting for the peer to call")

		r.hear("wg-store", "store", "192.0.2.7:1000")
		r.wantState("store", wg.TunnelUp, "within 30 s")
		if x := r.tunnel("store"); x.Handshakes != 1 || x.EndpointChanges != 0 {
			t.Errorf("handshakes %d, endpoint changes %d", x.Handshakes, x.EndpointChanges)
		}
		up := r.tunnel("store").Since

		// Bytes count without a new handshake: a session that carries something lives up to 180 s.
		r.after(170 * time.Second)
		r.wantState("store", wg.TunnelUp, "within 3 min")
		r.backend.device("wg-store").Update(wgtest.Peer("store").PublicKey, func(s *wg.PeerStats) { s.ReceiveBytes += 32 })
		r.after(170 * time.Second)
		r.wantState("store", wg.TunnelUp, "")
		if got := r.tunnel("store").Since; got != up {
			t.Errorf("up since %v, then since %v", up, got)
		}

		// With keepalives the silence means something.
		r.after(11 * time.Second)
		r.wantState("store", wg.TunnelDown, "nothing heard for over 3m0s")
		r.hear("wg-store", "store")
		r.wantState("store", wg.TunnelUp, "")
	})
}

func TestLivenessWithoutKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, oneStore+"    keepalive: off\n    dead_after: 60s\n")
		defer r.stop(false)
		r.hear("wg-store", "store")
		r.after(time.Minute)
		r.wantState("store", wg.TunnelStale, "nothing was sent")
		if x := r.tunnel("store"); !x.Alive() {
			t.Error("an idle tunnel must keep its routes")
		}
		r.did(`
			bgp [] announces [172.20.1.0/27 10.17.0.0/24] endpoints []
			install 10.17.0.0/24 dev wg-store`)

		// Something was sent, and there was no answer.
		r.backend.device("wg-store").Update(wgtest.Peer("store").PublicKey, func(s *wg.PeerStats) { s.TransmitBytes += 148 })
		r.after(time.Second)
		r.wantState("store", wg.TunnelDown, "nothing heard for over 1m0s")
		r.did(`
			bgp [] announces [172.20.1.0/27] endpoints []
			withdraw 10.17.0.0/24 dev wg-store`)
	})
}

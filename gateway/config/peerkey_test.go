package config

import (
	"fmt"
	"strings"
	"testing"

	"sitewire/gateway/wg"
)

// TestPeerKey: a peer's own device may have a key of its own, which decides on the addresses that follow from keys, too.
func TestPeerKey(t *testing.T) {
	const file = "site: fra\nasn: 4242420001\nrouter_id: 172.20.1.1\nwireguard: {%s}\npeers:\n" +
		"  nyc: { public_key: hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=, endpoint: 192.0.2.1:51820, asn: 4242420002, policy: dn42%s }\n" +
		"  store: { public_key: mwQt05EBvg8D7eOqPc2Jpc+nll5MXSI5g47EGiIiuxA=, endpoint: 192.0.2.2:51820, allowed_ips: [10.17.0.0/24]%s }\n"
	const own, other = `private_key: "${file:/etc/sitewire/private.key}"`, `, private_key: "${file:/etc/sitewire/branch-2.psk}"`
	key := func(s string) wg.Secret {
		k, err := wg.ParseSecret(s)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for name, c := range map[string]struct {
		wireguard, nyc, store string
		want                  string // of the error
		nycKey, storeKey      string
	}{
		"one for all":     {own, "", "", "", ownPrivate, ownPrivate},
		"one of its own":  {own, other, "", "", presharedA, ownPrivate},
		"each its own":    {"", other, other, "", presharedA, presharedA},
		"none for one":    {"", other, "", "wireguard.private_key is needed as soon as there is a peer without a key of its own", "", ""},
		"shared device":   {own + ", device: wg0", other, "", "a peer on the shared device has no private key of its own", "", ""},
		"beside a shared": {own + ", device: wg0", other + ", device: own", "", "", presharedA, ownPrivate},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := load(t, fmt.Sprintf(file, c.wireguard, c.nyc, c.store))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			nyc, store := cfg.Peers[0], cfg.Peers[1]
			if !nyc.PrivateKey.Equal(key(c.nycKey)) || !store.PrivateKey.Equal(key(c.storeKey)) {
				t.Error("a device has another key than it was given")
			}
			if want := LinkLocal(key(c.nycKey).Public()); nyc.Tunnel.Local != want {
				t.Errorf("nyc's local address %v, want %v", nyc.Tunnel.Local, want)
			}
			if text := string(cfg.Canonical()); strings.Contains(text, presharedA) || strings.Count(text, "own_public_key") != strings.Count(c.nyc+c.store, "private_key") {
				t.Errorf("printed as\n%s", text)
			}
		})
	}
	mine := key(presharedA).Public().String()
	_, err := load(t, strings.Replace(fmt.Sprintf(file, own, other, ""), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", mine, 1))
	if err == nil || !strings.Contains(err.Error(), "peer nyc has our own public key") {
		t.Errorf("a peer with the public key of its own device: %v", err)
	}
}

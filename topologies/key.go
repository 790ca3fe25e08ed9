package topologies

import (
	"crypto/sha256"

	"sitewire/gateway/wg"
)

// Key is the private key of a node. Anybody can compute it, which is what a lab wants: two machines that render the same network agree,
// and no key has to lie in a file. It protects nothing.
func Key(network, node string) wg.Secret {
	k := wg.Secret(sha256.Sum256([]byte("sitewire lab " + network + "/" + node)))
	k[0] &= 248 // as X25519 does by itself (RFC 7748 section 5); so `wg` prints what we do
	k[31] = k[31]&127 | 64
	return k
}

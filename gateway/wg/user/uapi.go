package user

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"sitewire/gateway/wg"
)

// chunk is the number of allowed-IPs in one UAPI operation: wireguard-go holds its configuration lock for the length of
// one, and the context is looked at in between.
const chunk = 4096

// ipcErrno reduces an error of the userspace API to its number.
func ipcErrno(err *device.IPCError) error {
	if code := -err.ErrorCode(); code > 0 {
		return fmt.Errorf("userspace API: %w", syscall.Errno(code))
	}
	return errors.New("userspace API: unknown error")
}

// peerText describes a peer as lines of the userspace API (wireguard.com/xplatform). It holds the preshared key.
func peerText(b *strings.Builder, p wg.PeerConfig) {
	fmt.Fprintf(b, "public_key=%s\npreshared_key=%s\n", p.PublicKey.Hex(), p.PresharedKey.Hex())
	if p.Endpoint.IsValid() {
		fmt.Fprintf(b, "endpoint=%s\n", p.Endpoint)
	}
	fmt.Fprintf(b, "persistent_keepalive_interval=%d\n", p.PersistentKeepalive/time.Second)
}

// allowedText describes additions, or with sign "-" removals. It never creates a peer.
func allowedText(b *bytes.Buffer, list []wg.AllowedIP, sign string) {
	var (
		peer wg.PublicKey
		room [64]byte
	)
	for i, a := range list {
		if i == 0 || a.Peer != peer {
			peer = a.Peer
			fmt.Fprintf(b, "public_key=%s\nupdate_only=true\n", peer.Hex())
		}
		b.WriteString("allowed_ip=")
		b.WriteString(sign)
		b.Write(a.Prefix.AppendTo(room[:0]))
		b.WriteByte('\n')
	}
}

// uapiPeer is what parseGet reads of a peer.
type uapiPeer struct {
	stats   wg.PeerStats
	allowed []netip.Prefix
}

// errUAPI says that the text is not an answer of the userspace API. The line is not quoted: it may hold a key.
var errUAPI = errors.New("malformed answer of the userspace API")

// parseGet reads the answer to a "get" operation. Secrets in it are skipped, not decoded.
func parseGet(r io.Reader) ([]uapiPeer, error) {
	var (
		peers []uapiPeer
		sec   int64
	)
	scanner := bufio.NewScanner(r)
	for n := 1; scanner.Scan(); n++ {
		line := scanner.Text()
		if line == "" {
			break
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d: %w", n, errUAPI)
		}
		if key == "public_key" {
			raw, err := hex.DecodeString(value)
			if err != nil || len(raw) != wg.KeySize {
				return nil, fmt.Errorf("line %d: %w", n, errUAPI)
			}
			peers = append(peers, uapiPeer{stats: wg.PeerStats{PublicKey: wg.PublicKey(raw)}})
			sec = 0
			continue
		}
		if len(peers) == 0 {
			continue // of the device itself
		}
		if err := peers[len(peers)-1].set(key, value, &sec); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", n, key, err)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("userspace API: %w", err)
	}
	return peers, nil
}

// set reads one line of a peer. Unknown keys are skipped, as the protocol demands. Seconds come before nanoseconds.
func (p *uapiPeer) set(key, value string, sec *int64) error {
	var err error
	switch key {
	case "endpoint":
		p.stats.Endpoint, err = netip.ParseAddrPort(value)
	case "last_handshake_time_sec":
		*sec, err = strconv.ParseInt(value, 10, 64)
	case "last_handshake_time_nsec":
		var nsec int64
		if nsec, err = strconv.ParseInt(value, 10, 64); err == nil && (*sec != 0 || nsec != 0) {
			p.stats.LastHandshake = time.Unix(*sec, nsec)
		}
	case "rx_bytes":
		p.stats.ReceiveBytes, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		p.stats.TransmitBytes, err = strconv.ParseUint(value, 10, 64)
	case "allowed_ip":
		var prefix netip.Prefix
		if prefix, err = netip.ParsePrefix(value); err == nil {
			p.allowed = append(p.allowed, prefix)
		}
	}
	if err != nil {
		return errUAPI
	}
	return nil
}

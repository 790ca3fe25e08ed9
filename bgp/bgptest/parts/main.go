// Command parts is the libraries of a gateway joined in the shortest way, to measure ours beside: what it takes, no gateway of these parts can save.
//
// Job: take routes from one passive session, and give each best path's prefix to WireGuard as an allowed-IP and to the kernel as a route.
// Owner: the benchmark that runs it.
// Inputs: its own ASN and router ID, the neighbour's address and ASN, and the device that routes lead through.
// Outputs: one line "ready" when it listens.
// Invariants: no policy, and no state but GoBGP's, WireGuard's and what waits to be written. Withdrawals are not followed.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"sitewire/routes"
	"sitewire/routes/fib"
)

// Prefixes are gathered for fold, and written at most batch at once.
const fold, batch = 20 * time.Millisecond, 4096

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "parts:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("want ASN ROUTER-ID NEIGHBOUR NEIGHBOUR-ASN DEVICE, got %q", args)
	}
	own, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return err
	}
	other, err := strconv.ParseUint(args[3], 10, 32)
	if err != nil {
		return err
	}
	w := &writer{fib: fib.New(fib.Options{NoObjects: true}), hops: []routes.Hop{{Device: args[4]}}}
	if err := w.fib.Open(ctx); err != nil {
		return err
	}
	w.tunnel = device.NewDevice(tuntest.NewChannelTUN().TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	if err := w.tunnel.IpcSet(fmt.Sprintf("private_key=%064x\npublic_key=%s\n", 1, peerKey)); err != nil {
		return err
	}
	q := &queue{filled: make(chan struct{}, 1)}
	s := server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), new(slog.LevelVar)))
	go s.Serve()
	if err := s.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: uint32(own), RouterId: args[1], ListenPort: 179}}); err != nil {
		return err
	}
	// What a gateway has to watch: paths before policy too, for allowed-IPs of what is not best, and sessions.
	err = s.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnBestPath:   q.put,
		OnPathUpdate: func([]*apiutil.Path, time.Time) {},
		OnPathEor:    func(*apiutil.Path, time.Time) {},
		OnPeerUpdate: func(*apiutil.WatchEventMessage_PeerEvent, time.Time) {},
	}, server.WatchUpdate(true, "", ""), server.WatchAdjInWithdraw(), server.WatchBestPath(true), server.WatchPeer(), server.WatchEor(true))
	if err != nil {
		return err
	}
	err = s.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: args[2], PeerAsn: uint32(other)},
		Transport: &api.Transport{PassiveMode: true},
	}})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	var list []netip.Prefix
	for range q.filled {
		time.Sleep(fold)
		list = q.take(list)
		for some := range slices.Chunk(list, batch) {
			if err := w.write(ctx, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// queue holds the prefixes that are to be written.
type queue struct {
	mu     sync.Mutex
	list   []netip.Prefix
	filled chan struct{} // signalled when there is something
}

func (q *queue) put(paths []*apiutil.Path, _ time.Time) {
	q.mu.Lock()
	for _, p := range paths {
		if n, ok := p.Nlri.(*bgp.IPAddrPrefix); ok && !p.Withdrawal {
			q.list = append(q.list, n.Prefix)
		}
	}
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// take returns what waits, and lets the next wait in the memory of empty.
func (q *queue) take(empty []netip.Prefix) []netip.Prefix {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = empty[:0]
	return list
}

// peerKey is the public key of the device's only peer, which does not exist.
var peerKey = strings.Repeat("09", device.NoisePublicKeySize)

// writer gives prefixes to WireGuard, and then to the kernel.
type writer struct {
	tunnel *device.Device
	fib    *fib.FIB
	hops   []routes.Hop
	ops    []routes.Op
}

func (w *writer) write(ctx context.Context, list []netip.Prefix) error {
	var text strings.Builder
	text.Grow(32 * len(list))
	fmt.Fprintf(&text, "public_key=%s\nupdate_only=true\n", peerKey)
	w.ops = w.ops[:0]
	var room [64]byte
	for _, p := range list {
		text.WriteString("allowed_ip=")
		text.Write(p.AppendTo(room[:0]))
		text.WriteByte('\n')
		w.ops = append(w.ops, routes.Op{Kind: routes.Install, Route: routes.Route{Prefix: p, Hops: w.hops}})
	}
	if err := w.tunnel.IpcSetOperation(strings.NewReader(text.String())); err != nil {
		return err
	}
	return errors.Join(w.fib.Write(ctx, w.ops)...)
}

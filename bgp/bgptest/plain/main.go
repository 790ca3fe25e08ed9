// Command plain is an embedded GoBGP with nothing around it, to measure ours beside.
//
// Job: take routes from passive sessions and watch best paths, as the smallest program around the library would.
// Owner: the benchmark that runs it.
// Inputs: its own ASN and router ID, a neighbour's address and ASN, and how many best paths to wait for.
// Outputs: one line "ready" when it listens, and one line with the time (Unix, nanoseconds) of the last best path.
// Invariants: no policy, no FIB, no state but GoBGP's and a counter.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/server"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "plain:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("want ASN ROUTER-ID NEIGHBOUR NEIGHBOUR-ASN PATHS, got %q", args)
	}
	var numbers [3]int
	for i, a := range []string{args[0], args[3], args[4]} {
		n, err := strconv.ParseUint(a, 10, 32)
		if err != nil {
			return err
		}
		numbers[i] = int(n)
	}
	for _, a := range args[1:3] {
		if _, err := netip.ParseAddr(a); err != nil {
			return err
		}
	}
	ctx := context.Background()
	s := server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), new(slog.LevelVar)))
	go s.Serve()
	if err := s.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: uint32(numbers[0]), RouterId: args[1], ListenPort: 179}}); err != nil {
		return err
	}
	seen, done := 0, make(chan time.Time, 1)
	err := s.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnBestPath: func(paths []*apiutil.Path, _ time.Time) {
		if seen < numbers[2] && seen+len(paths) >= numbers[2] {
			done <- time.Now()
		}
		seen += len(paths)
	}}, server.WatchBestPath(true))
	if err != nil {
		return err
	}
	if err := s.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: args[2], PeerAsn: uint32(numbers[1])},
		Transport: &api.Transport{PassiveMode: true},
	}}); err != nil {
		return err
	}
	fmt.Println("ready")
	fmt.Println((<-done).UnixNano())
	select {} // whoever started it looks at its memory, and then ends it
}

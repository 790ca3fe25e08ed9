// Command plain is an embedded GoBGP with nothing around it, to measure ours beside.
//
// Job: take routes from passive sessions and watch best paths, as the smallest program around the library would.
// Owner: the benchmark that runs it.
// Inputs: its own ASN and router ID, a neighbour's address and ASN, how many best paths to wait for, and perhaps how many
// neighbours there are: those after the first have the addresses and ASNs that follow, and everything goes on to all.
// Outputs: one line "ready" when it listens, and one line with the time (Unix, nanoseconds) of the last best path; of many
// neighbours that is the one after which none came for a second. After that, for each SIGUSR1, one line with the bytes that are live, when
// garbage was collected and what is free given back to the kernel.
// Invariants: no policy, no FIB, no state but GoBGP's and a counter.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
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
	if len(args) == 5 {
		args = append(args, "1")
	}
	if len(args) != 6 {
		return fmt.Errorf("want ASN ROUTER-ID NEIGHBOUR NEIGHBOUR-ASN PATHS [NEIGHBOURS], got %q", args)
	}
	var numbers [4]int
	for i, a := range []string{args[0], args[3], args[4], args[5]} {
		n, err := strconv.ParseUint(a, 10, 32)
		if err != nil {
			return err
		}
		numbers[i] = int(n)
	}
	neighbour, err := netip.ParseAddr(args[2])
	if err != nil {
		return err
	}
	ctx := context.Background()
	s := server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), new(slog.LevelVar)))
	go s.Serve()
	if err := s.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: uint32(numbers[0]), RouterId: args[1], ListenPort: 179}}); err != nil {
		return err
	}
	seen, done := 0, make(chan time.Time, 1)
	err = s.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnBestPath: func(paths []*apiutil.Path, _ time.Time) {
		if seen += len(paths); seen >= numbers[2] && len(paths) > 0 {
			select {
			case <-done: // an earlier one
			default:
			}
			done <- time.Now()
		}
	}}, server.WatchBestPath(true))
	if err != nil {
		return err
	}
	for i := range numbers[3] {
		p := &api.Peer{
			Conf:      &api.PeerConf{NeighborAddress: neighbour.String(), PeerAsn: uint32(numbers[1] + i)},
			Transport: &api.Transport{PassiveMode: true},
		}
		if neighbour.Is6() {
			for _, afi := range []api.Family_Afi{api.Family_AFI_IP, api.Family_AFI_IP6} {
				p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Enabled: true, Family: &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}}})
			}
		}
		if err := s.AddPeer(ctx, &api.AddPeerRequest{Peer: p}); err != nil {
			return err
		}
		neighbour = neighbour.Next()
	}
	fmt.Println("ready")
	last := <-done
	for numbers[3] > 1 {
		select {
		case last = <-done:
			continue
		case <-time.After(time.Second):
		}
		break
	}
	collect := make(chan os.Signal, 1)
	signal.Notify(collect, syscall.SIGUSR1)
	fmt.Println(last.UnixNano())
	for range collect { // whoever started it looks at its memory, and then ends it
		runtime.GC() // what a sync.Pool holds outlives one collection
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Println(m.HeapAlloc)
	}
	return nil
}

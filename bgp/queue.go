package bgp

import (
	"fmt"
	"net/netip"
	"reflect"
	"unsafe"

	"github.com/osrg/gobgp/v4/pkg/server"
)

// GoBGP v4.8.0 empties a session's outgoing queue when its peer is deleted, or so it means to: it takes from the queue until there is nothing
// at once, but another goroutine has to put each message there, which takes longer than to look. So one or two are taken, and the
// others, with all that they refer to, stay for ever. Of a neighbour that read nothing that is all that it missed.
//
// There is no other way to the queue than through GoBGP's unexported fields.

// outgoing returns the queue of a peer in GoBGP; it is closed when the peer has gone. Only for the goroutine that adds and deletes peers.
func outgoing(s *server.BgpServer, address netip.Addr) (<-chan any, error) {
	peers := reflect.ValueOf(s).Elem().FieldByName("neighborMap")
	if peers.Kind() != reflect.Map || peers.Type().Key() != reflect.TypeFor[netip.Addr]() {
		return nil, fmt.Errorf("GoBGP keeps its peers otherwise than v4.8.0: %v", peers)
	}
	peer := peers.MapIndex(reflect.ValueOf(address))
	for _, name := range []string{"fsm", "outgoingCh"} {
		if peer.Kind() != reflect.Pointer || peer.Elem().Kind() != reflect.Struct || !peer.Elem().FieldByName(name).IsValid() {
			return nil, fmt.Errorf("GoBGP keeps its queues otherwise than v4.8.0: no %s in %v", name, peer)
		}
		peer = peer.Elem().FieldByName(name)
	}
	if peer.Kind() != reflect.Pointer || peer.IsNil() {
		return nil, fmt.Errorf("GoBGP keeps its queues otherwise than v4.8.0: %v", peer)
	}
	queue, ok := reflect.NewAt(peer.Type().Elem(), unsafe.Pointer(peer.Pointer())).Interface().(interface{ Out() <-chan any })
	if !ok {
		return nil, fmt.Errorf("GoBGP keeps its queues otherwise than v4.8.0: %v", peer.Type())
	}
	return queue.Out(), nil
}

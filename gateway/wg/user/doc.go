// Package user is a wg.Device in this process: the embedded golang.zx2c4.com/wireguard on a TUN interface.
//
// Job: create the TUN, feed it to wireguard-go in batches, carry its datagrams on our own sockets, change it by deltas
// and read it without dumping it, and serve the UAPI socket so that `wg show NAME` works.
// Owner: Device owns the link, the sockets and the UAPI socket; all disappear with Close or with the process.
// Inputs: wg.DeviceConfig, wg.Delta, UnderlayChanged, MTUChanged.
// Outputs: packets; wg.PeerStats; one log record per kind of trouble and interval.
// Invariants: the link is left down and without addresses; an existing link is never touched; allowed-IPs change only by
// single entries; keys never reach an error or a log, wireguard-go's own messages included.
//
// Bind replaces wireguard-go's StdNetBind: that one sends IPv6 datagrams to a wrong address after any IPv4 one
// (WireGuard/wireguard-go#135), forgets IPv6 source addresses, asks the kernel about every endpoint at every route
// change, and reads two messages per system call. It also keeps two handshakes that both ends begin at once from
// ruining each other (cross.go).
package user

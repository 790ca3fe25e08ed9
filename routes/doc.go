// Package routes decides which kernel routes and which WireGuard allowed-IPs should exist, and keeps the kernel and the
// devices in step with that.
//
// Job: fold what BGP learned, what the configuration says and which tunnels are alive into one desired state; plan the
// smallest set of operations from what is installed to what is desired; run it, retry it, and repair drift.
// Owner: the Syncer's goroutine owns the Table, the Ledger and the retries. The Feed is the one thing with a mutex.
// Inputs: Feed (paths, best paths, End-of-RIB, liveness), Policy, FIB.Connected, and what FIB.List and Tunnels.List see.
// Outputs: Ops, written through FIB and Tunnels, and Status, an immutable snapshot behind an atomic pointer.
// Invariants:
//   - Order: divert, allow, install, withdraw, disallow, restore. A route never points at a device whose peers do not own its prefix,
//     also while a plan runs, and also when a part of it fails.
//   - Add before delete: a prefix that was reachable and stays reachable is reachable in between.
//   - A prefix moves between the peers of a device by one allow.
//   - Desired (Row, Snapshot), installed (Held, Ledger) and observed (Observed) are three types and never mixed.
//   - Only what the ledger holds is removed, and nothing that an earlier run left before the first sync is complete.
//   - Planning costs in proportion to what changed. A plan of everything and the sum of the small plans agree.
//
// # Who gets a prefix
//
// Routes, by precedence: a static prefix of the first peer (in the order of Policy.Peers) that is alive; a tunnel
// address on a shared device; the best paths of BGP. Prefixes in Policy.Own are never installed from BGP.
//
// A best path whose tunnel is dead, whose next hop does not resolve or which is refused gives way to the other best
// paths. If none is left, the best usable accepted path stands in (local preference, AS path length, origin, MED,
// neighbour's name) until BGP has decided again.
//
// On a device every prefix has one owner. What is configured (lists, tunnel addresses) beats what is learned: a
// neighbour must not take a prefix that the operator gave to someone else, so its path is refused for that device. Of
// several configured owners the first one that is alive wins, else the first; of several best paths through one device
// the first by the neighbours' names. All of these count as conflicts.
//
// # When a tunnel is lost
//
// With a Switcher, a route through the only peer of a device carries a backup: the way that would be chosen without that
// tunnel, if all it takes is another route. That is so where the other peer has the prefix among its allowed-IPs in any case
// (a device of its own), and for routers on the LAN. On shared devices a prefix belongs to one peer, so each of them has to
// move: there is no backup through one, and none for a route through one.
//
// The loss of a tunnel (PutDead, or PutReachable for all neighbours behind it) diverts its device: one operation, however
// many prefixes there are, and before anything is decided about them. Then each prefix is decided and written as without a
// Switcher, while packets take the backup. The device is restored when its peer is known to be alive, as the last operation
// of the plan that moves routes back to it, so a tunnel that returns before BGP has made up its mind gets no packets early.
// A route whose backup cannot be had (its Allow failed) is written without.
//
// # Next hops
//
// A next hop is, in this order: a link-local address with its zone; a tunnel address of a peer; an address on a
// connected network; and, only for neighbours with Recursive set, the longest match among our own routes whose own next
// hops are one of the former. Two rules of common practice keep that free of loops and surprises: a route that was
// itself found by recursion does not resolve another next hop (as in BIRD), and the default route resolves none (as in
// FRR).
package routes

// Package routes decides which kernel routes and which WireGuard allowed-IPs should exist, and keeps the kernel and the
// devices in step with that.
//
// Job: fold what BGP learned, what the configuration says and which tunnels are alive into one desired state; plan the
// smallest set of operations from what is installed to what is desired; run it, retry it, and repair drift.
// Owner: the Syncer's goroutine owns the Table, the Ledger and the retries. The Feed is the one thing with a mutex.
// Inputs: Feed (paths, best paths, End-of-RIB, liveness), Policy, FIB.Connected, and what FIB.List and Tunnels.List see.
// Outputs: Ops, written through FIB and Tunnels, and Status, an immutable snapshot behind an atomic pointer.
// Invariants:
//   - Order: allow, install, withdraw, disallow. A route never points at a device whose peers do not own its prefix,
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
// # Next hops
//
// A next hop is, in this order: a link-local address with its zone; a tunnel address of a peer; an address on a
// connected network; and, only for neighbours with Recursive set, the longest match among our own routes whose own next
// hops are one of the former. Two rules of common practice keep that free of loops and surprises: a route that was
// itself found by recursion does not resolve another next hop (as in BIRD), and the default route resolves none (as in
// FRR).
package routes

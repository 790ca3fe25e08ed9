// Package rpki learns who may originate which prefixes, and judges origins by it.
//
// Job: fetch validated ROA payloads from caches (RTR: RFC 8210, falling back to RFC 6810) and from JSON files, keep them
// in named tables, and validate origins against a table (RFC 6811).
// Owner: the Manager's mutex owns what sources are there and what they said; each source is a goroutine with its own
// protocol state.
// Inputs: Config; caches; files.
// Outputs: Snapshot, immutable: the state of every source, and the Set of tables.
// Invariants: a table changes whole, never half a response; the last good payloads of a cache stay until they expire,
// those of a file until there is a better one; what does not parse never takes what did away; memory is bounded by
// MaxVRPs for each source. The RTR codec is our own, because GoBGP's reads version 0 only and brings GoBGP along.
package rpki

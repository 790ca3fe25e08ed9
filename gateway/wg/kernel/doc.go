// Package kernel is a wg.Device in the kernel: the wireguard module, over generic netlink.
//
// Job: create or adopt the link, change the device by deltas in few large messages, read it without copying each entry, and say before
// anything is touched whether this kernel has WireGuard at all.
// Owner: Device owns its netlink sockets and nothing else: the interface, its peers and sessions are the kernel's and outlive the process.
// Inputs: wg.DeviceConfig, wg.Delta.
// Outputs: SET_DEVICE and GET_DEVICE messages of the family "wireguard", version 1; rtnetlink for the link itself.
// Invariants: a link that exists is never set down, emptied or replaced; a peer's list of allowed-IPs is never replaced; a delta never creates
// a peer but by SetPeers; a message is bounded, and the context is looked at between two; a dump that was interrupted is not the truth; keys
// never reach an error.
//
// # Removing one allowed-IP
//
// Linux 6.16 and later remove a single entry (WGALLOWEDIP_F_REMOVE_ME) and leave it alone if the peer does not own it. Whether this kernel
// does is asked once, on a throw-away peer. Older ones know only the replacement of a peer's whole list, which drops packets of unrelated
// prefixes meanwhile (measured). There the entries are parked: one message creates a throw-away peer, moves the entries to it, and removes it
// with them. The kernel carries a message out under its lock and before the system call returns, so that nobody sees half of it and a killed
// process leaves nothing. Only a failure inside the message, such as a lack of memory, can leave the peer; it is removed at once, or, if the
// process dies just then, when the device is next adopted: its key begins with a text that no real key has (see parkingMark).
//
// Parking takes an entry from whoever owns it, so ownership is looked up first, in a ledger of our own: read from a dump, kept up by what we
// write, and read again before a removal as soon as that costs no more than the share of time that Options.Share gives to reading. For a
// device with a few thousand entries that means before nearly every removal. What another program moves between that dump and the removal
// can be taken from its new owner; nothing in these kernels prevents that. While the message is carried out, packets for a parked prefix are
// dropped, also where a shorter prefix of another peer would cover it.
package kernel

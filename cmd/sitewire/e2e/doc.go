// Package e2e runs the sitewire program as its users do, in network namespaces, beside the peers that they have.
//
// Job: what the README promises, shown on real devices, real sessions and real routes.
// Owner: the tests; all processes and namespaces end with them.
// Inputs: this tree, which TestMain builds; Debian's bird2, frr, gobgpd, wireguard-go, wireguard-tools and prometheus.
// Outputs: test results; a test that lacks a program is skipped with its reason (see package nstest).
// Invariants: no packet leaves the namespaces that a test made.
package e2e

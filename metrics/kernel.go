package metrics

import "slices"

// Request names a kind of request to the kernel: a subsystem ("rtnetlink", "wireguard", "nftables") and what was
// asked of it ("route_add", "set_device").
type Request struct {
	Subsystem, Operation string
}

// RequestError is a kind of request and the errno it failed with ("EPERM").
type RequestError struct {
	Request
	Errno string
}

// Kernel counts the traffic with the kernel. The maps must not change once handed over.
type Kernel struct {
	// Requests sent, failed ones included, and Errors among them.
	Requests map[Request]uint64
	Errors   map[RequestError]uint64
	// Overruns of notifications and Resyncs that followed, by subsystem.
	Overruns, Resyncs map[string]uint64
	// Drift by kind, of what the routes' own comparison does not look at: "device_changed", "peer_missing" and so on.
	Drift map[string]Drift
}

// Drift counts what others changed, and what of it was put right.
type Drift struct {
	Detected, Repaired uint64
}

// otherDrift are the kinds of Kernel.Drift.
func otherDrift() []string {
	return []string{"peer_missing", "peer_extra", "device_changed", "rule_missing"}
}

// kernelMetrics is the group of requests to the kernel.
type kernelMetrics struct {
	requests, errors, overruns, resyncs *metric
}

func newKernelMetrics(c *catalogue) *kernelMetrics {
	c.group("Kernel")
	return &kernelMetrics{
		requests: c.counter("netlink_requests_total", "Netlink requests sent.", "subsystem", "operation"),
		errors:   c.counter("netlink_errors_total", "Netlink requests that failed; those that found things as wanted are none.", "subsystem", "operation", "errno"),
		overruns: c.counter("netlink_overruns_total", "Times that the kernel dropped notifications because they were not read fast enough.", "subsystem"),
		resyncs:  c.counter("netlink_resyncs_total", "Full reads of the kernel's state after lost notifications.", "subsystem"),
	}
}

// errnos that have a label value of their own, because each has its own cure: a missing capability, a device that is
// gone, a next hop that is not on link, a full table. Any other is "other".
func errnos() []string {
	return []string{"EEXIST", "EINVAL", "ENETUNREACH", "ENOBUFS", "ENODEV", "ENOENT", "ENOSPC", "EPERM", "other"}
}

func (k *kernelMetrics) collect(e *emitter, s *scrape) {
	if s.kernel == nil {
		return
	}
	known := errnos()
	errors := make(map[RequestError]uint64, len(s.kernel.Requests)*len(known))
	for r, n := range s.kernel.Requests {
		e.counter(k.requests, n, r.Subsystem, r.Operation)
		for _, errno := range known { // at 0 from the start, so that the first failure is an increase
			errors[RequestError{r, errno}] = 0
		}
	}
	for r, n := range s.kernel.Errors {
		if !slices.Contains(known, r.Errno) {
			r.Errno = "other"
		}
		errors[r] += n
	}
	for r, n := range errors {
		e.counter(k.errors, n, r.Subsystem, r.Operation, r.Errno)
	}
	subsystems := []string{"rtnetlink"} // the only one whose notifications are followed
	e.byName(k.overruns, s.kernel.Overruns, subsystems)
	e.byName(k.resyncs, s.kernel.Resyncs, subsystems)
}

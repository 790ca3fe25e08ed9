package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"sitewire/topologies"
)

// Impairer is a Runner that can make cables carry nothing.
type Impairer interface {
	Runner
	// Cut makes a cable drop everything in both directions; its ends are not told and stay up.
	Cut(ctx context.Context, cable *topologies.Link) error
	// Mend takes that back.
	Mend(ctx context.Context, cable *topologies.Link) error
}

// Figures of a Failover.
const (
	// lead is how long packets flow before anything happens. That they did is seen in what came of the flow.
	lead = time.Second
	// steady is how long packets must have flowed again.
	steady = time.Second
	// grace is added to the time that a flow may take, for what starts and ends it.
	grace = 5 * time.Second
)

// Failover plays a scenario in a lab in which Common holds: it sends packets from host to host in both families, does what the scenario
// says, and checks that packets are lost for no longer than it allows, and that afterwards, with everything mended, all has settled again. It
// mends what it cut in any case.
func Failover(ctx context.Context, r Runner, s *topologies.Scenario) Result {
	start := time.Now()
	detail, err := failover(ctx, r, s)
	return Result{s.Name + ": packets flow again", detail, time.Since(start), err}
}

func failover(ctx context.Context, r Runner, s *topologies.Scenario) (detail string, err error) {
	e := event{r, s}
	pending := true // something may have to be taken back
	defer func() {
		if pending {
			err = errors.Join(err, e.end(context.WithoutCancel(ctx)))
		}
	}()
	away, err := watch(ctx, r, s, s.Outage+s.Within, func() error {
		if err := e.begin(ctx); err != nil || s.Outage == 0 {
			return err
		}
		if err := pause(ctx, s.Outage); err != nil {
			return err
		}
		pending = false
		return e.end(ctx)
	})
	if err != nil {
		return "", err
	}
	detail = "lost " + away.String()
	if err := away.within(s.Outage + s.Within); err != nil {
		return detail, err
	}
	if !away.all() {
		return detail, errors.New("no packet was lost: the packets do not go where it happens, so this shows nothing")
	}
	if pending {
		back, err := watch(ctx, r, s, s.Within, func() error {
			pending = false
			return e.end(ctx)
		})
		if err != nil {
			return detail, err
		}
		detail += "; when mended " + back.String()
		if err := back.within(s.Within); err != nil {
			return detail, fmt.Errorf("when mended: %w", err)
		}
	}
	began := time.Now()
	for _, x := range all(ctx, r, settled) { // a gateway remembers lost echoes for a while, and says so in its health
		if x.Err != nil {
			return detail, fmt.Errorf("when mended it does not hold that %s: %w", x.Name, x.Err)
		}
	}
	return fmt.Sprintf("%s; all in order %.1f s later", detail, time.Since(began).Seconds()), nil
}

// event is what a scenario does.
type event struct {
	r Runner
	s *topologies.Scenario
}

func (e event) begin(ctx context.Context) error {
	for _, l := range e.s.Cut {
		i, ok := e.r.(Impairer)
		if !ok {
			return errors.New("this lab cannot cut cables")
		}
		if err := i.Cut(ctx, l); err != nil {
			return err
		}
	}
	return e.run(ctx, e.s.Change)
}

func (e event) end(ctx context.Context) error {
	var errs []error
	for _, l := range e.s.Cut {
		if i, ok := e.r.(Impairer); ok {
			errs = append(errs, i.Mend(ctx, l))
		}
	}
	return errors.Join(append(errs, e.run(ctx, e.s.Undo))...)
}

func (e event) run(ctx context.Context, commands []topologies.Command) error {
	for _, c := range commands {
		if _, err := e.r.Exec(ctx, c.Node.Name, c.Argv...); err != nil {
			return fmt.Errorf("%s: %s: %w", c.Node.Name, strings.Join(c.Argv, " "), err)
		}
	}
	return nil
}

// losses is what became of the packets to each address of a host.
type losses []struct {
	Address        netip.Addr
	Sent, Received int
	Outages        []struct {
		Before, Lost int
		Seconds      float64
		Over         bool
	}
}

// watch sends packets while something happens, until they flow again, or for as long as they may be lost.
func watch(ctx context.Context, r Runner, s *topologies.Scenario, allowed time.Duration, happen func() error) (losses, error) {
	argv := []string{
		"sitewire", "lab", "flow", "--json", "--recovered", steady.String(), "--for", (lead + allowed + steady + grace).String(),
	}
	to := r.Network().Ports(s.To)[0].Addresses
	for _, p := range to {
		argv = append(argv, p.Addr().String())
	}
	var out losses
	done := make(chan error, 1)
	go func() { done <- ask(ctx, r, s.From.Name, &out, argv...) }()
	err := pause(ctx, lead)
	if err == nil {
		err = happen()
	}
	if err = errors.Join(err, <-done); err != nil {
		return nil, err
	}
	if len(out) != len(to) {
		return nil, fmt.Errorf("%s sent to %d addresses, not %d", s.From.Name, len(out), len(to))
	}
	for _, x := range out {
		if len(x.Outages) > 0 && x.Outages[0].Before == 0 {
			return nil, fmt.Errorf("%s sent its first packet to %s when it had happened already: the machine is too busy to measure", s.From.Name, x.Address)
		}
	}
	return out, nil
}

// within checks that no outage is longer than allowed, or lasts.
func (l losses) within(allowed time.Duration) error {
	for _, x := range l {
		for _, o := range x.Outages {
			switch {
			case !o.Over && o.Seconds > grace.Seconds()/10:
				return fmt.Errorf("packets to %s are lost for good: for %.1f s now", x.Address, o.Seconds)
			case o.Seconds > allowed.Seconds():
				return fmt.Errorf("packets to %s were lost for %.1f s, %v is allowed", x.Address, o.Seconds, allowed)
			}
		}
	}
	return nil
}

// all tells whether packets to every address were lost.
func (l losses) all() bool {
	for _, x := range l {
		if x.Received == x.Sent {
			return false
		}
	}
	return true
}

// String is the longest outage of each family: "IPv4 0.61 s, IPv6 0.60 s".
func (l losses) String() string {
	var out []string
	for _, x := range l {
		longest, name := 0.0, "IPv4"
		for _, o := range x.Outages {
			longest = max(longest, o.Seconds)
		}
		if x.Address.Is6() {
			name = "IPv6"
		}
		out = append(out, fmt.Sprintf("%s %.2f s", name, longest))
	}
	return strings.Join(out, ", ")
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

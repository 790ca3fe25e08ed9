package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"sitewire/gateway"
	"sitewire/topologies/netns"
)

// tour shows what the sites can do, and returns an error as soon as something does not work.
func (l *demoLab) tour(ctx context.Context, say *narrator) error {
	for _, f := range []func(context.Context, *narrator) error{l.bringUp, l.watch, l.pingAll, l.breakOne, l.witness} {
		if err := f(ctx, say); err != nil {
			return err
		}
	}
	say.printf("\n%s\n", say.p.paint(good, fmt.Sprintf("All of it worked, in %.0f s.", time.Since(say.start).Seconds())))
	return say.err
}

// bringUp waits until every gateway is well, and tells how it gets there.
func (l *demoLab) bringUp(ctx context.Context, say *narrator) error {
	say.title("Three gateways start")
	told := map[*demoSite]string{}
	prefixes := len(l.sites) - 1
	return netns.WaitFor(ctx, 100*time.Millisecond, "all tunnels, sessions and routes", func() error {
		var missing error
		for _, s := range l.sites {
			st, err := s.status(ctx)
			if err != nil {
				missing = fmt.Errorf("%s: %w", s.name, err)
				continue
			}
			words := fmt.Sprintf("%d/%d tunnels up, %d/%d sessions established, routes: %s",
				st.Tunnels.Up, st.Tunnels.All, st.Sessions.Up, st.Sessions.All, families(st.Routes))
			if told[s] != words {
				told[s] = words
				say.step("%s  %s", s.name, words)
			}
			if st.Tunnels.Up < prefixes || st.Sessions.Up < prefixes || st.Routes["ipv4"] < prefixes || st.Routes["ipv6"] < prefixes {
				missing = fmt.Errorf("%s has %s", s.name, words)
			}
		}
		return missing
	})
}

func (s *demoSite) status(ctx context.Context) (gateway.Status, error) {
	st, _, err := fetch[gateway.Status](ctx, s.client(), "/v1/status", nil)
	return st, err
}

// pingAll pings from every LAN to every other, in both families.
func (l *demoLab) pingAll(ctx context.Context, say *narrator) error {
	say.title("Ping from LAN to LAN")
	for _, from := range l.sites {
		for _, to := range l.sites {
			if from == to {
				continue
			}
			for _, dst := range []netip.Addr{to.host4(), to.host6()} {
				if err := reach(ctx, from.lan, dst, 10*time.Second); err != nil {
					return err
				}
			}
			say.step("%s -> %s  %s and %s answer", from.lan, to.lan, to.host4(), to.host6())
		}
	}
	return nil
}

// reach is netns.Reach with a limit of its own.
func reach(ctx context.Context, from *netns.NS, dst netip.Addr, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return netns.Reach(ctx, from, netip.Addr{}, dst)
}

// breakOne cuts the path between the first two sites under traffic, waits for the other way round, and heals it.
func (l *demoLab) breakOne(ctx context.Context, say *narrator) (err error) {
	path := l.links[0]
	a, b, c := path.a, path.b, l.sites[2]
	say.title("Cut the path %s - %s, under traffic", a.name, b.name)
	const interval = 10 * time.Millisecond
	flow, err := netns.StartFlow(a.lan, []netip.Addr{b.host4(), b.host6()}, netns.FlowOpts{Interval: interval})
	if err != nil {
		return err
	}
	if err := l.showRoute(ctx, say, a, b.lan4); err != nil {
		flow.Stop(0)
		return err
	}
	if err := l.cut(path); err != nil {
		flow.Stop(0)
		return err
	}
	cutAt := time.Now()
	say.step("cut: packets between %s and %s vanish, nobody is told", path.addr(a), path.addr(b))
	for _, dst := range []netip.Addr{b.host4(), b.host6()} {
		if err := reach(ctx, a.lan, dst, 20*time.Second); err != nil {
			flow.Stop(0)
			return fmt.Errorf("traffic did not move to the path through %s: %w", c.name, err)
		}
	}
	moved := time.Since(cutAt)
	lost := 0
	for _, r := range flow.Stop(200 * time.Millisecond) {
		lost = max(lost, r.Lost())
	}
	notice := "the hold time is 3 s here, 90 s by default"
	if l.observer != nil {
		notice = "BFD needs 2 s here to notice"
	}
	say.step("%s after %.1f s (%s lost, %d sent per second; %s)",
		say.p.paint(good, "traffic flows again through "+c.name), moved.Seconds(), plural(lost, "packet"), time.Second/interval, notice)
	if err := l.showRoute(ctx, say, a, b.lan4); err != nil {
		return err
	}

	say.title("Mend it")
	flow, err = netns.StartFlow(a.lan, []netip.Addr{b.host4(), b.host6()}, netns.FlowOpts{Interval: interval})
	if err != nil {
		return err
	}
	if err := l.heal(path); err != nil {
		flow.Stop(0)
		return err
	}
	healedAt := time.Now()
	back := func() error {
		for _, ends := range [][2]*demoSite{{a, b}, {b, a}} {
			for _, prefix := range []netip.Prefix{ends[1].lan4, ends[1].announce6} {
				if r, err := ends[0].route(ctx, prefix); err != nil {
					return err
				} else if via := bestPeer(r); via != ends[1].name {
					return fmt.Errorf("%s reaches %s through %s", ends[0].name, prefix, via)
				}
			}
		}
		return nil
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = netns.WaitFor(limit, 50*time.Millisecond, "the direct path", back)
	lost = 0
	for _, r := range flow.Stop(200 * time.Millisecond) {
		lost = max(lost, r.Lost())
	}
	if err != nil {
		return err
	}
	say.step("%s after %.1f s, %s lost on the way back", say.p.paint(good, "direct again"), time.Since(healedAt).Seconds(), plural(lost, "packet"))
	return l.showRoute(ctx, say, a, b.lan4)
}

// showRoute tells how a site reaches a prefix.
func (l *demoLab) showRoute(ctx context.Context, say *narrator, s *demoSite, prefix netip.Prefix) error {
	r, err := s.route(ctx, prefix)
	if err != nil {
		return err
	}
	say.step("%s  %s %s  (AS path %s)", s.name, prefix, r.Installed, bestText(r))
	return nil
}

// route asks a gateway for one route.
func (s *demoSite) route(ctx context.Context, prefix netip.Prefix) (gateway.RouteInfo, error) {
	ans, _, err := fetch[gateway.Routes](ctx, s.client(), "/v1/routes", url.Values{"prefix": {prefix.String()}})
	if err != nil {
		return gateway.RouteInfo{}, err
	}
	for _, r := range ans.Routes {
		if r.Prefix == prefix {
			return r, nil
		}
	}
	return gateway.RouteInfo{}, errors.New(s.name + " does not know " + prefix.String())
}

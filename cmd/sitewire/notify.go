package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Messages of sd_notify(3).
const (
	notifyReady    = daemon.SdNotifyReady
	notifyStopping = daemon.SdNotifyStopping
	notifyWatchdog = daemon.SdNotifyWatchdog
)

const (
	// statusEvery is the period of the status line for `systemctl status`.
	statusEvery = 5 * time.Second
	// loopPatience is the age of the gateway's last turn at which it counts as stuck. It turns every few seconds, but one turn may make
	// many devices.
	loopPatience = 30 * time.Second
)

// tell sends systemd a message. Without systemd it does nothing.
func tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Debug("systemd not told", "error", err)
	}
}

// notify tells systemd that the gateway is ready, how it is doing, and that it is alive: the last only while its loop turns.
func (d *process) notify(ctx context.Context) error {
	every := statusEvery
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	if watchdog > 0 {
		every = min(every, watchdog/3)
	}
	select {
	case <-d.gateway.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	last := d.statusLine()
	tell(d.log, notifyReady+"\n"+last)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if line := d.statusLine(); line != last {
			tell(d.log, line)
			last = line
		}
		if age := time.Since(d.gateway.Heartbeat()); watchdog > 0 && age < loopPatience {
			tell(d.log, notifyWatchdog)
		} else if watchdog > 0 {
			d.log.Error("the gateway's loop does not turn, the watchdog is not fed", "age", age)
		}
	}
}

// statusLine is what `systemctl status` shows.
func (d *process) statusLine() string {
	st := d.gateway.Status()
	return fmt.Sprintf("STATUS=%s: %d/%d tunnels, %d/%d BGP, %d routes", st.Health, st.Tunnels.Up, st.Tunnels.All, st.Sessions.Up, st.Sessions.All,
		st.Routes["ipv4"]+st.Routes["ipv6"])
}

// reloadOnSignal reads the configuration again at every SIGHUP.
func (d *process) reloadOnSignal(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hup:
		}
		tell(d.log, daemon.SdNotifyReloading+"\nMONOTONIC_USEC="+daemon.SdNotifyMonotonicUsec())
		// A refusal is logged by the gateway, and the old configuration stays in force: the daemon goes on.
		if changes, err := d.gateway.Reload(ctx, "sighup"); err == nil {
			for _, change := range changes {
				d.log.Info("changed by reload", "change", change)
			}
		}
		tell(d.log, notifyReady)
	}
}

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
)

// demoListenersEnv hands listeners to the demo inside its namespaces, as NAME=DESCRIPTOR,…: whoever watches the demo sits in the machine's
// own network namespace, which the demo has left. A listener belongs to the namespace that it was made in, wherever it is inherited to.
const demoListenersEnv = "SITEWIRE_DEMO_LISTENERS"

// Names of listeners, and of what is behind them.
const (
	demoPrometheus = "prometheus"
	demoGrafana    = "grafana"
)

// demoOptions are the flags of `sitewire demo`.
type demoOptions struct {
	once, keep, observe bool
	listen, grafana     string // addresses on this machine, used with observe
}

func (o *demoOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.once, "once", false, "end with a verdict when the tour is over")
	f.BoolVar(&o.keep, "keep", false, "leave configurations and logs in a directory, and print its name")
	f.BoolVar(&o.observe, "observe", false, "also run Prometheus on the gateways, with the alerting rules, and Grafana if it is installed")
	f.StringVar(&o.listen, "observe-listen", "127.0.0.1:9090", "where --observe shows Prometheus on this machine")
	f.StringVar(&o.grafana, "grafana-listen", "127.0.0.1:3000", "where --observe shows Grafana on this machine, if it is installed")
}

// demoOptionsOf reads the demo's flags from a command line before there is a command. Mistakes are left to the command.
func demoOptionsOf(args []string) *demoOptions {
	o := &demoOptions{}
	cmd := &cobra.Command{FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}}
	o.flags(cmd)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	_ = cmd.ParseFlags(args)
	return o
}

// handInListeners makes, before the demo goes into its namespaces, the listeners that --observe needs, and says what is missing for it.
// They stay open until this process ends, which is after the demo.
func handInListeners(args []string) error {
	if os.Getenv(demoListenersEnv) != "" { // we are on the way in
		return nil
	}
	o := demoOptionsOf(args)
	if !o.observe {
		return nil
	}
	if _, err := netns.Program("prometheus"); err != nil {
		return errors.New("--observe runs Prometheus, which is not installed: apt-get install prometheus, or put the program on PATH; " +
			"without --observe the demo needs none")
	}
	wanted := [][2]string{{demoPrometheus, o.listen}}
	if _, err := netns.Program("grafana-server"); err == nil {
		wanted = append(wanted, [2]string{demoGrafana, o.grafana})
	}
	var words []string
	for _, w := range wanted {
		fd, err := inheritable(w[1])
		if err != nil {
			flag := map[string]string{demoPrometheus: "--observe-listen", demoGrafana: "--grafana-listen"}[w[0]]
			return fmt.Errorf("show %s to you: %w; another address can be given with %s", w[0], err, flag)
		}
		words = append(words, w[0]+"="+strconv.Itoa(fd))
	}
	return os.Setenv(demoListenersEnv, strings.Join(words, ","))
}

// inheritable listens and returns a descriptor that programs started from here keep under the same number.
func inheritable(address string) (fd int, err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return 0, err
	}
	var dupErr error
	err = raw.Control(func(own uintptr) { fd, dupErr = unix.Dup(int(own)) })
	return fd, cmp.Or(err, dupErr)
}

// takeListeners returns what handInListeners left, by name.
func takeListeners() (map[string]net.Listener, error) {
	all := map[string]net.Listener{}
	text := os.Getenv(demoListenersEnv)
	os.Unsetenv(demoListenersEnv) // the programs of the demo are not meant
	for word := range strings.SplitSeq(text, ",") {
		name, number, ok := strings.Cut(word, "=")
		if !ok {
			continue
		}
		fd, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("%s=%q: %w", demoListenersEnv, text, err)
		}
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), name)
		l, err := net.FileListener(f) // has a descriptor of its own
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("listener for %s: %w", name, err)
		}
		all[name] = l
	}
	return all, nil
}

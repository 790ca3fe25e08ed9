package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"sitewire/gateway"
	"sitewire/gateway/config"
	"sitewire/gateway/config/wgquick"
)

func newExport(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write what another program needs to take over",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newExportWgQuick(a))
	return cmd
}

func newExportWgQuick(a *app) *cobra.Command {
	var out string
	var live, force bool
	cmd := &cobra.Command{
		Use:   "wg-quick [FILE]",
		Short: "Write a file of wg-quick for each device of a configuration",
		Long: `Reads FILE (` + defaultConfig + ` unless given) as the daemon would, and prints what wg-quick(8) needs to make the same
devices with the same peers. What wg-quick has no word for, such as BGP, is in comments. Allowed-IPs are those of the
configuration; what BGP learned is added by --live, from the running gateway.

On stdout there are no keys: comments say where they are. -o writes NAME.conf for each device into a directory, with keys,
mode 0600. Files that exist are not overwritten without --force.`,
		Example: "  sitewire export wg-quick\n  sitewire export wg-quick --live -o /etc/wireguard",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := defaultConfig
			if len(args) > 0 {
				path = args[0]
			}
			cfg, err := config.Load(path, config.Options{})
			if err != nil {
				return withCode(exitInvalid, fmt.Errorf("%s is not valid:\n%w", path, err))
			}
			o := wgquick.ExportOptions{Secrets: out != ""}
			if live {
				if o.Live, err = a.liveAllowed(cmd.Context()); err != nil {
					return err
				}
			}
			return a.putExported(out, wgquick.Export(cfg, o), force)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "out", "o", "", "write files with keys, mode 0600, into this directory")
	f.BoolVar(&live, "live", false, "write the allowed-IPs that are in force, as the running gateway says")
	f.BoolVar(&force, "force", false, "overwrite files")
	return cmd
}

// liveAllowed asks the gateway who owns which prefixes, by device and peer.
func (a *app) liveAllowed(ctx context.Context) (map[string]map[string][]netip.Prefix, error) {
	answer, _, err := fetch[gateway.Routes](ctx, newClient(a.socket), "/v1/routes", nil)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string][]netip.Prefix{}
	for _, r := range answer.Routes {
		for _, o := range r.AllowedOn {
			if out[o.Device] == nil {
				out[o.Device] = map[string][]netip.Prefix{}
			}
			out[o.Device][o.Peer] = append(out[o.Device][o.Peer], o.Prefix)
		}
	}
	for _, peers := range out {
		for peer, list := range peers { // one entry may stand for many prefixes
			slices.SortFunc(list, netip.Prefix.Compare)
			peers[peer] = slices.Compact(list)
		}
	}
	return out, nil
}

func (a *app) putExported(dir string, texts []wgquick.Text, force bool) error {
	if dir == "" {
		for i, x := range texts {
			if i > 0 {
				fmt.Fprintln(a.stdout)
			}
			if _, err := a.stdout.Write(x.Text); err != nil {
				return err
			}
		}
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files := make([]outFile, len(texts))
	for i, x := range texts {
		files[i] = outFile{filepath.Join(dir, x.Device+".conf"), x.Text}
	}
	if err := writeFiles(files, force); err != nil {
		return err
	}
	for _, f := range files {
		fmt.Fprintln(a.stderr, f.path+": written")
	}
	return nil
}

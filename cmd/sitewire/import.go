package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sitewire/gateway/config"
	"sitewire/gateway/config/wgquick"
)

func newImport(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Make a configuration of what another program has",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImportWgQuick(a))
	return cmd
}

// importOptions are the flags of `import wg-quick`.
type importOptions struct {
	out, keys, site, device, routerID string
	asn                               uint32
	force                             bool
}

func newImportWgQuick(a *app) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "wg-quick FILE...",
		Short: "Make a configuration of files of wg-quick, one device each",
		Long: `Reads files of wg-quick(8), or what wg showconf prints (- is stdin), and prints a configuration of sitewire that has
the devices do what they do now: names, keys, ports, addresses, MTUs, peers and allowed-IPs stay. What it cannot carry is
told on stderr, with what to do instead, and stands as comments where it belongs. Peers behind Table = off become BGP
neighbours that are administratively down; other peers become sites without BGP.

Keys go to files of mode 0600, beside the configuration that -o names, or in the directory of --keys. Without either no
key is written: to look at what comes out is safe. A file that exists is not overwritten without --force.

The exit code is 5 if a file has mistakes (nothing is printed or written then), or if sitewire check would refuse the result.`,
		Example: "  sitewire import wg-quick /etc/wireguard/*.conf\n" +
			"  sitewire import wg-quick --asn 4242420001 -o /etc/sitewire/sitewire.yaml /etc/wireguard/*.conf\n" +
			"  wg showconf wg0 | sitewire import wg-quick --device wg0 -",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.importWgQuick(o, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.out, "out", "o", "", "write the configuration to this file, and keys beside it")
	f.StringVar(&o.keys, "keys", "", "write keys to this directory (default: that of --out)")
	f.StringVar(&o.site, "site", "", "name of this site (default: the host's)")
	f.Uint32Var(&o.asn, "asn", 0, "AS number of this site")
	f.StringVar(&o.routerID, "router-id", "", "router ID of this site (default: an IPv4 address of a tunnel)")
	f.StringVar(&o.device, "device", "", "name of the device (default: the file's, without .conf)")
	f.BoolVar(&o.force, "force", false, "overwrite files")
	return cmd
}

func (a *app) importWgQuick(o importOptions, args []string) error {
	options := wgquick.Options{Site: o.site, ASN: o.asn}
	if options.Site == "" {
		options.Site = siteName()
	}
	if !config.ValidName(options.Site) {
		return withCode(exitUsage, fmt.Errorf("--site %q: want letters, digits, '-', '_' and '.', at most 63", options.Site))
	}
	if o.routerID != "" {
		id, err := netip.ParseAddr(o.routerID)
		if err != nil || !id.Is4() || id.IsUnspecified() {
			return withCode(exitUsage, fmt.Errorf("--router-id %q: want an IPv4 address", o.routerID))
		}
		options.RouterID = id
	}
	keys := o.keys
	switch {
	case o.keys != "":
		dir, err := filepath.Abs(o.keys)
		if err != nil {
			return err
		}
		options.KeyDir = dir
		if out, err := filepath.Abs(o.out); err == nil && o.out != "" && filepath.Dir(out) == dir {
			options.KeyDir = ""
		}
	case o.out != "":
		keys = filepath.Dir(o.out)
	default:
		options.KeyDir = filepath.Dir(defaultConfig)
	}
	if o.device != "" && len(args) > 1 {
		return withCode(exitUsage, errors.New("--device names the device of one file"))
	}
	files, err := a.readWgQuick(args, o.device)
	if err != nil {
		return err
	}
	result, err := wgquick.Convert(files, options)
	if err != nil {
		return withCode(exitInvalid, fmt.Errorf("nothing was imported:\n%w", err))
	}
	invalid, err := checkText(result.YAML)
	if err != nil {
		return err
	}
	if err := a.putImported(o.out, keys, result, o.force); err != nil {
		return err
	}
	a.tellImported(o.out, keys, result)
	if invalid != nil {
		return withCode(exitInvalid, fmt.Errorf("the result needs work before it is valid:\n%w", invalid))
	}
	return nil
}

// readWgQuick reads the files. Mistakes of all of them are one error.
func (a *app) readWgQuick(args []string, device string) (files []*wgquick.File, _ error) {
	var mistakes config.Errors
	for _, path := range args {
		name, from := device, path
		if path == "-" {
			if from = "stdin"; name == "" {
				return nil, withCode(exitUsage, errors.New("stdin has no name: give --device NAME"))
			}
		} else if name == "" {
			name = strings.TrimSuffix(filepath.Base(path), ".conf")
		}
		if !config.ValidDevice(name) {
			mistakes = append(mistakes, &config.Error{File: from, Message: fmt.Sprintf("%q is not the name of a device", name), Hint: "a file is named after its device (wg0.conf), or --device names it"})
			continue
		}
		text, err := a.readText(path)
		if err != nil {
			return nil, err
		}
		f, err := wgquick.Parse(from, name, text)
		if errs, ok := errors.AsType[config.Errors](err); ok {
			mistakes = append(mistakes, errs...)
			continue
		}
		files = append(files, f)
	}
	if len(mistakes) > 0 {
		return nil, withCode(exitInvalid, fmt.Errorf("nothing was imported:\n%w", mistakes))
	}
	return files, nil
}

// readText reads a file, or stdin.
func (a *app) readText(path string) (string, error) {
	from := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", err // names the file
		}
		defer f.Close()
		from = f
	}
	const enough = 16 << 20 // more is refused by the parser
	b, err := io.ReadAll(io.LimitReader(from, enough))
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return string(b), nil
}

// checkText does what `sitewire check` does, before the keys are in their places.
func checkText(yaml []byte) (invalid, failed error) {
	dir, err := os.MkdirTemp("", "sitewire-import")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sitewire.yaml")
	if err := os.WriteFile(path, yaml, 0o600); err != nil {
		return nil, err
	}
	_, err = config.Load(path, config.Options{WithoutSecrets: true})
	if errs, ok := errors.AsType[config.Errors](err); ok {
		for _, e := range errs {
			e.File = "sitewire.yaml" // and not the copy
			e.Message = strings.ReplaceAll(e.Message, dir+"/", "")
		}
	}
	return err, nil
}

// putImported writes the configuration and the keys to where they belong.
func (a *app) putImported(out, keys string, r *wgquick.Result, force bool) error {
	var files []outFile
	if keys != "" {
		if err := os.MkdirAll(keys, 0o700); err != nil {
			return err
		}
		for _, k := range r.Keys {
			files = append(files, outFile{filepath.Join(keys, k.Name), []byte(k.Secret.Reveal() + "\n")})
		}
	}
	if out != "" {
		files = append(files, outFile{out, r.YAML})
	}
	if err := writeFiles(files, force); err != nil {
		return err
	}
	if out != "" {
		return nil
	}
	_, err := a.stdout.Write(r.YAML)
	return err
}

// tellImported says what is not as it was, and what is left to do.
func (a *app) tellImported(out, keys string, r *wgquick.Result) {
	for _, n := range r.Notes {
		fmt.Fprintln(a.stderr, n)
	}
	if n := strings.Count(string(r.YAML), "# FILL IN"); n > 0 {
		fmt.Fprintf(a.stderr, "%s to fill in: look for FILL IN\n", plural(n, "value"))
	}
	if len(r.Keys) > 0 && keys == "" {
		fmt.Fprintf(a.stderr, "%s not written: -o FILE puts them beside the configuration, --keys DIR into a directory\n", plural(len(r.Keys), "key"))
	}
	if out != "" {
		fmt.Fprintf(a.stderr, "%s: written, with %s in %s\n", out, plural(len(r.Keys), "key file"), keys)
	}
}

// siteName is the host's name, as far as it may be a site's.
func siteName() string {
	host, err := os.Hostname()
	if name, _, _ := strings.Cut(host, "."); err == nil && config.ValidName(name) {
		return name
	}
	return "here"
}

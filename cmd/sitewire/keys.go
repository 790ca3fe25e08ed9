package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sitewire/gateway/wg"
)

func newGenkey(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "genkey",
		Short: "Make a private key",
		Long: `Prints a new private key, or with --out writes it to a new file that only its owner can read and prints the public key.
It refuses to write a key into a file that others can read.`,
		Example: "  sitewire genkey --out /etc/sitewire/private.key\n  umask 077; sitewire genkey > private.key",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			key, err := wg.NewPrivateKey()
			if err != nil {
				return err
			}
			if file == "" {
				return a.printSecret(key, "sitewire genkey --out FILE")
			}
			if err := writeSecret(file, key); err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, key.Public())
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "out", "o", "", "write the key to this new file, mode 0600, and print the public key")
	return cmd
}

func newGenpsk(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "genpsk",
		Short: "Make a preshared key",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			key, err := wg.NewPresharedKey()
			if err != nil {
				return err
			}
			if file == "" {
				return a.printSecret(key, "sitewire genpsk --out FILE")
			}
			return writeSecret(file, key)
		},
	}
	cmd.Flags().StringVarP(&file, "out", "o", "", "write the key to this new file, mode 0600")
	return cmd
}

func newPubkey(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "pubkey [FILE]",
		Short:   "Print the public key of the private key in a file, or on stdin",
		Example: "  sitewire pubkey /etc/sitewire/private.key\n  sitewire genkey | sitewire pubkey",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			from, name := a.stdin, "stdin"
			if len(args) > 0 {
				f, err := os.Open(args[0])
				if err != nil {
					return err // names the file
				}
				defer f.Close()
				from, name = f, args[0]
			}
			const enough = 4096 // a key is 44 characters; a file of another kind is not read to its end
			b, err := io.ReadAll(io.LimitReader(from, enough))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			key, err := wg.ParseSecret(strings.TrimSpace(string(b)))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			_, err = fmt.Fprintln(a.stdout, key.Public())
			return err
		},
	}
}

// printSecret prints a key, unless stdout is a file that others can read: the daemon would refuse such a file, and the key would have
// been public for a moment.
func (a *app) printSecret(key wg.Secret, instead string) error {
	if f, ok := a.stdout.(*os.File); ok {
		fi, err := f.Stat()
		if err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
		if fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("stdout is a file with mode %04o that others can read: no key was written\nset umask 077 and use a new file, or: %s", fi.Mode().Perm(), instead)
		}
	}
	_, err := fmt.Fprintln(a.stdout, key.Reveal())
	return err
}

// writeSecret writes a key to a file that must not exist yet, readable by its owner only.
func writeSecret(name string, key wg.Secret) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists: a key that is in use is not overwritten; remove the file first if you mean it", name)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, key.Reveal())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("key file %s: %w", name, err), os.Remove(name))
	}
	return nil
}

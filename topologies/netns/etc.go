package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// PutEtc gives the namespace's commands a file below /etc/bird, /etc/frr, /etc/gobgp, /etc/prometheus, /etc/sitewire or /etc/wireguard. The machine
// need not have that directory, and nothing of it changes: a command has mounts of its own.
func (n *NS) PutEtc(file string, content []byte) error {
	dir := ""
	for _, d := range hostConfig {
		if strings.HasPrefix(file, d+"/") {
			dir = d
		}
	}
	if dir == "" || file != filepath.Clean(file) {
		return fmt.Errorf("namespace %s: %s is not below one of %s", n.name, file, strings.Join(hostConfig[:], " "))
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := plantEtc(n.name); err != nil {
			return fmt.Errorf("namespace %s: an /etc of its own: %w", n.name, err)
		}
	}
	own := filepath.Join(etcDir(n.name, filepath.Base(dir)), strings.TrimPrefix(file, dir))
	if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
		return err
	}
	return os.WriteFile(own, content, 0o644)
}

// Where a namespace has an /etc of its own, and where its commands then see the machine's.
func ownEtc(name string) string  { return filepath.Join(stateDir(name), "etc-own") }
func hostEtc(name string) string { return filepath.Join(stateDir(name), "etc-host") }

// plantEtc makes a directory that looks like /etc, with places for all of hostConfig: nobody can make them in the machine's. What is in
// /etc is there by symbolic links, since not every kernel has overlays.
func plantEtc(name string) error {
	if _, err := os.Stat(ownEtc(name)); err == nil {
		return nil
	}
	entries, err := os.ReadDir("/etc")
	if err != nil {
		return err
	}
	for _, dir := range []string{ownEtc(name), hostEtc(name)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, e := range entries {
		from := filepath.Join("/etc", e.Name())
		if slices.Contains(hostConfig[:], from) {
			continue
		}
		to := filepath.Join(hostEtc(name), e.Name())
		if e.Type()&os.ModeSymlink != 0 { // it may be relative to /etc
			if to, err = os.Readlink(from); err != nil {
				return err
			}
		}
		if err := os.Symlink(to, filepath.Join(ownEtc(name), e.Name())); err != nil {
			return err
		}
	}
	for _, dir := range hostConfig {
		if err := os.Mkdir(filepath.Join(ownEtc(name), filepath.Base(dir)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// coverEtc puts the namespace's own /etc, if it has one, over the machine's. It runs in a command's own mount namespace.
func coverEtc(name string) error {
	if _, err := os.Stat(ownEtc(name)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unix.Mount("/etc", hostEtc(name), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount(ownEtc(name), "/etc", "", unix.MS_BIND, "")
}

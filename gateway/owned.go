package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"sitewire/gateway/wg"
)

// owned is what this gateway put into the kernel, and what goes on without it: devices by name, each with the keys of the
// peers that it was given. It is kept in a file, so that a later run can tell what it may remove from what is somebody
// else's. Keys are public.
type owned map[string]ownedDevice

type ownedDevice struct {
	ListenPort uint16         `json:"listen_port,omitempty"`
	Peers      []wg.PublicKey `json:"peers"`
}

// has tells whether the device is there with the peer.
func (o owned) has(device string, key wg.PublicKey) bool {
	return slices.Contains(o[device].Peers, key)
}

// Files in the state directory.
const (
	ownedFile      = "devices.json"
	neighboursFile = "neighbours.json"
)

// remembered is what a restarted speaker should know of a neighbour.
type remembered struct {
	ExtendedNextHop bool `json:"extended_next_hop"`
}

// store keeps what a later run should know in files of a directory. The zero value keeps nothing. All of it is about what is in the
// kernel, so that it means nothing after a boot: devices of the same names are then somebody else's making.
type store struct{ dir, boot string }

// document is what is in a file.
type document struct {
	BootID string          `json:"boot_id,omitempty"`
	State  json.RawMessage `json:"state"`
}

// load reads a file into v, and leaves v alone if there is no file, or one of another boot.
func (s store) load(name string, v any) error {
	if s.dir == "" {
		return nil
	}
	path := filepath.Join(s.dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var d document
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err == nil && d.BootID == s.boot {
		err = json.Unmarshal(d.State, v)
	}
	if err != nil {
		return fmt.Errorf("what an earlier run left is not known: %w; remove %s if it is damaged", err, path)
	}
	return nil
}

// save replaces a file as a whole.
func (s store) save(name string, v any) error {
	if s.dir == "" {
		return nil
	}
	state, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(document{s.boot, state}, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// remove removes a file that may not be there.
func (s store) remove(name string) error {
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

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

// ownedFile is the file in the state directory.
const ownedFile = "devices.json"

// store keeps owned in a directory. The zero value keeps nothing.
type store struct{ dir string }

// load reads what an earlier run kept; nothing if there is no file.
func (s store) load() (owned, error) {
	if s.dir == "" {
		return nil, nil
	}
	path := filepath.Join(s.dir, ownedFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var o owned
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		return nil, fmt.Errorf("what an earlier run left is not known: %w; remove %s if it is damaged", err, path)
	}
	return o, nil
}

// save replaces the file as a whole; without anything to keep it goes.
func (s store) save(o owned) error {
	if s.dir == "" {
		return nil
	}
	path := filepath.Join(s.dir, ownedFile)
	if len(o) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.MarshalIndent(o, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

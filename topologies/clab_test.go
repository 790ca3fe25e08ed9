package topologies

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

const clabRoot = "../containerlab"

// The folders below containerlab/ are what is rendered now, with nothing besides but what people wrote.
func TestContainerlab(t *testing.T) {
	each(t, func(t *testing.T, w *Network) {
		dir := filepath.Join(clabRoot, w.Name)
		files := w.Containerlab()
		for name, want := range files {
			file := filepath.Join(dir, name)
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
				continue
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Errorf("%v: write it with go generate ./topologies", err)
			} else if string(got) != want {
				t.Errorf("%s is not what is rendered now: write it with go generate ./topologies", file)
			}
		}
		err := filepath.WalkDir(filepath.Join(dir, "configs"), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, err := filepath.Rel(dir, file)
			if _, ok := files[name]; !ok && err == nil {
				if *update {
					return os.Remove(file)
				}
				t.Errorf("%s is not rendered any more", file)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

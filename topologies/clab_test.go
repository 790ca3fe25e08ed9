package topologies

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

const (
	clabRoot   = "../containerlab"
	readmeFile = "README.md"
)

func TestIndex(t *testing.T) {
	file := filepath.Join(clabRoot, readmeFile)
	if *update {
		if err := os.WriteFile(file, []byte(Index()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != Index() {
		t.Errorf("%s is not what is rendered now: write it with go generate ./topologies", file)
	}
}

// mode is what a file of a lab's folder is for.
func mode(name string) os.FileMode {
	if filepath.Ext(name) == ".sh" {
		return 0o755
	}
	return 0o644
}

// The folders below containerlab/ are what is rendered now, with nothing besides but what people wrote.
func TestContainerlab(t *testing.T) {
	each(t, func(t *testing.T, w *Network) {
		dir := filepath.Join(clabRoot, w.Name)
		files := w.Containerlab()
		// What the README shows is recorded from the running lab by package clabtest; the rest of it is made here.
		readme, err := os.ReadFile(filepath.Join(dir, readmeFile))
		if err != nil && !*update {
			t.Error(err)
		}
		out := w.Outputs(string(readme))
		if len(out) != len(w.Show) && !*update {
			t.Errorf("%s/%s does not show all outputs: write it with go generate ./topologies", dir, readmeFile)
		}
		files[readmeFile] = w.README(out)
		for name, want := range files {
			file := filepath.Join(dir, name)
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(want), mode(name)); err != nil {
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
		err = filepath.WalkDir(filepath.Join(dir, "configs"), func(file string, d fs.DirEntry, err error) error {
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

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sitewire/topologies/netns"
)

// standIn is an image with the name and the way of one of containerlab/images, made of this machine's programs: where a test runs there
// may be no registry to take Debian from.
type standIn struct {
	tag      string
	programs []string
	files    []string // files and directories of this machine, taken if they are there
	// start is a script of containerlab/images that the image starts with; sleep if empty.
	start string
}

// hostPrograms are what the image "host" has, as far as the commands of the labs need them.
var hostPrograms = []string{"sh", "sleep", "mkdir", "cat", "ip", "wg", "wireguard-go"}

var standIns = map[string]standIn{
	"host":  {tag: "sitewire-host:latest", programs: hostPrograms},
	"bird":  {tag: "sitewire-bird:latest", programs: append([]string{"bird", "birdc"}, hostPrograms...), start: "bird/start"},
	"gobgp": {tag: "sitewire-gobgp:latest", programs: append([]string{"gobgpd", "gobgp"}, hostPrograms...), start: "gobgp/start"},
	"frr": {
		tag: "sitewire-frr:latest", programs: append([]string{"zebra", "bgpd", "vtysh", "chown", "sleep"}, hostPrograms...), start: "frr/start",
		files: []string{"/usr/share/yang", "/etc/pam.d/frr", "/etc/passwd", "/etc/group", "/usr/lib/x86_64-linux-gnu/security/pam_permit.so"},
	},
}

// library is a line of ldd: "libc.so.6 => /lib/libc.so.6 (0x…)" or "/lib64/ld-linux.so.2 (0x…)".
var library = regexp.MustCompile(`(/\S+) \(0x`)

// build makes the image.
func (s standIn) build(ctx context.Context, e *Engine, sitewire string) error {
	var b bytes.Buffer
	w := &tarball{Writer: tar.NewWriter(&b), seen: map[string]bool{}}
	for _, dir := range []string{"etc/bird", "etc/frr", "etc/wireguard", "run/wireguard", "tmp", "var/tmp", "var/run", "proc", "sys", "dev"} {
		w.dir(dir)
	}
	for _, dir := range merged {
		w.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: dir, Linkname: "usr/" + dir}, nil)
	}
	for _, name := range s.programs {
		path, err := netns.Program(name)
		if err != nil {
			return err
		}
		where := "usr/bin/" + name
		if name == "zebra" || name == "bgpd" {
			where = "usr/lib/frr/" + name
		}
		w.program(ctx, path, where)
	}
	w.file(sitewire, "usr/bin/sitewire")
	for _, f := range s.files {
		w.tree(ctx, f)
	}
	cmd := `CMD ["sleep","infinity"]`
	if s.start != "" {
		cmd = `CMD ["/usr/bin/start"]`
		w.file(filepath.Join(imagesDir, s.start), "usr/bin/start")
	}
	if err := errors.Join(w.err, w.Close()); err != nil {
		return fmt.Errorf("image %s: %w", s.tag, err)
	}
	_, err := e.docker(ctx, &b, "import", "--change", cmd, "--change", "ENV SITEWIRE_CONTAINER=1", "-", s.tag)
	return err
}

// merged are directories of / that are in /usr today: a library's name may begin with either.
var merged = []string{"bin", "lib", "lib64"}

// tarball is a file system in the making. The first error stays.
type tarball struct {
	*tar.Writer
	seen map[string]bool
	err  error
}

func (w *tarball) add(h *tar.Header, content []byte) {
	if w.err != nil || w.seen[h.Name] {
		return
	}
	w.seen[h.Name] = true
	h.Size = int64(len(content))
	if w.err = w.WriteHeader(h); w.err == nil {
		_, w.err = w.Write(content)
	}
}

func (w *tarball) dir(name string) {
	w.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
}

// file copies a file of this machine, through symbolic links.
func (w *tarball) file(path, as string) {
	content, err := os.ReadFile(path)
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	mode := int64(0o644)
	if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	as = strings.TrimPrefix(as, "/")
	if first, _, _ := strings.Cut(as, "/"); slices.Contains(merged, first) {
		as = "usr/" + as
	}
	w.add(&tar.Header{Typeflag: tar.TypeReg, Name: as, Mode: mode}, content)
}

// program copies a program or library and the libraries that it needs.
func (w *tarball) program(ctx context.Context, path, as string) {
	w.file(path, as)
	out, err := exec.CommandContext(ctx, "ldd", path).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "not a dynamic executable") {
		w.err = errors.Join(w.err, fmt.Errorf("ldd %s: %w: %s", path, err, out))
		return
	}
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		w.file(m[1], m[1])
	}
}

// tree copies a file or a directory, if it is there.
func (w *tarball) tree(ctx context.Context, root string) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case strings.HasSuffix(path, ".so"):
			w.program(ctx, path, path)
		case !d.IsDir():
			w.file(path, path)
		}
		return nil
	})
	w.err = errors.Join(w.err, err)
}

package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sitewire/topologies/guest/line"
	"sitewire/topologies/netns"
)

const (
	initPackage = "sitewire/topologies/guest/init"
	testsDir    = "/tests"
)

// basePrograms are in every guest, beside Options.Programs.
var basePrograms = []string{"sh", "bash", "cat", "ls", "head", "true", "sleep", "timeout", "ip", "tc", "ss", "sysctl", "ping", "wg", "nft"}

// baseFiles are copied from this machine where it has them.
var baseFiles = []string{"/etc/iproute2", "/usr/share/iproute2"}

// image collects what the guest's file system holds. Paths are those in the guest.
type image struct {
	work  string             // for what is built
	files map[string]content // regular files
	links map[string]string  // symbolic links
}

type content struct {
	mode  fs.FileMode
	bytes []byte
	from  string // a file of this machine, if bytes is nil
}

// newImage has what every Linux has: the directories of a merged /usr, and a root.
func newImage(work string) *image {
	im := &image{work: work, files: make(map[string]content), links: make(map[string]string)}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		im.links["/"+dir] = "usr/" + dir
	}
	for path, text := range map[string]string{
		"/etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
		"/etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	} {
		im.files[path] = content{mode: 0o644, bytes: []byte(text)}
	}
	for _, empty := range []string{"/root", "/var/tmp"} {
		im.files[empty+"/.keep"] = content{mode: 0o644}
	}
	return im
}

// merged is where a path is in a guest, whose /bin, /sbin and /lib* are in /usr.
func merged(path string) string {
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(path, dir) {
			return "/usr" + path
		}
	}
	return path
}

// copy puts a file of this machine, or a directory with all in it, into the guest at the path to.
func (im *image) copy(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(path) // what a link points to
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			im.files[merged(to+strings.TrimPrefix(path, from))] = content{mode: info.Mode(), from: path}
		}
		return nil
	})
}

// program puts a program of this machine and the libraries that it needs into the guest.
func (im *image) program(name string) error {
	path, err := netns.Program(name)
	if err != nil {
		return err
	}
	if err := im.copy(path, path); err != nil {
		return err
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		if strings.Contains(string(out), "not a dynamic executable") || strings.Contains(string(out), "statically linked") {
			return nil
		}
		if ee, ok := errors.AsType[*exec.ExitError](err); ok && strings.Contains(string(ee.Stderr), "not a dynamic executable") {
			return nil
		}
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	for line := range strings.Lines(string(out)) {
		for word := range strings.FieldsSeq(line) {
			if strings.HasPrefix(word, "/") {
				if err := im.copy(word, word); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// build compiles a static executable of a package, or its tests, and puts it into the guest.
func (im *image) build(ctx context.Context, pkg, to string, tests bool) error {
	out := filepath.Join(im.work, strings.ReplaceAll(strings.TrimPrefix(to, "/"), "/", "-"))
	args := []string{"build"}
	if tests {
		args = []string{"test", "-c"}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-ldflags=-s -w", "-o", out, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s for the guest: %w\n%s", pkg, err, b)
	}
	if _, err := os.Stat(out); err != nil {
		return fmt.Errorf("build %s for the guest: %w: has it no tests?", pkg, err)
	}
	im.files[to] = content{mode: 0o755, from: out}
	return nil
}

// testdata puts the package's testdata where its tests look for it, and returns their working directory.
func (im *image) testdata(ctx context.Context, pkg string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		return "", fmt.Errorf("go list %s: %w", pkg, err)
	}
	dir := testsDir + "/" + label(pkg)
	data := filepath.Join(strings.TrimSpace(string(out)), "testdata")
	if _, err := os.Stat(data); err == nil {
		if err := im.copy(data, dir+"/testdata"); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// assemble builds and collects everything that the guest needs, and returns what it is to do.
func (im *image) assemble(ctx context.Context, k *kernel, o Options) (*line.Plan, error) {
	plan := new(line.Plan)
	order, err := k.loadOrder(slices.Concat(modules, o.Modules))
	if err != nil {
		return nil, err
	}
	for _, m := range order {
		path := "/modules/" + m.name + ".ko"
		im.files[path] = content{mode: 0o644, bytes: m.code}
		plan.Modules = append(plan.Modules, path)
	}
	if err := im.build(ctx, initPackage, "/init", false); err != nil {
		return nil, err
	}
	for path, pkg := range o.Commands {
		if err := im.build(ctx, pkg, path, false); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Concat(basePrograms, o.Programs) {
		if err := im.program(name); err != nil {
			return nil, err
		}
	}
	for _, path := range baseFiles {
		if err := im.copy(path, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for _, path := range o.Files {
		if err := im.copy(path, path); err != nil {
			return nil, err
		}
	}
	for _, b := range o.Tests {
		program := testsDir + "/" + label(b.Package) + "/test"
		if _, ok := im.files[program]; !ok {
			if err := im.build(ctx, b.Package, program, true); err != nil {
				return nil, err
			}
		}
		dir, err := im.testdata(ctx, b.Package)
		if err != nil {
			return nil, err
		}
		plan.Runs = append(plan.Runs, line.Run{
			Program: program, Dir: dir, Pattern: b.Run, Bench: b.Bench, Args: b.Args, Env: b.Env, Timeout: b.Timeout,
		})
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	im.files[line.PlanFile] = content{mode: 0o644, bytes: text}
	return plan, nil
}

// write makes the initramfs. It is not compressed: unpacking costs an emulated processor more time than the copy.
func (im *image) write(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := newCpioWriter(f)
	made := make(map[string]bool)
	var parents func(path string)
	parents = func(path string) {
		if dir := filepath.Dir(path); dir != "/" && !made[dir] {
			made[dir] = true
			parents(dir)
			w.dir(strings.TrimPrefix(dir, "/"))
		}
	}
	for path := range im.files {
		parents(path)
	}
	for path, target := range im.links {
		parents(path)
		w.link(strings.TrimPrefix(path, "/"), target)
	}
	for path, c := range im.files {
		b := c.bytes
		if b == nil && c.from != "" {
			if b, err = os.ReadFile(c.from); err != nil {
				return err
			}
		}
		w.file(strings.TrimPrefix(path, "/"), c.mode, b)
	}
	return w.close()
}

// allowance is how long the whole machine may run: its boot, and every run with what the init grants beyond the run's own time-out.
func allowance(plan *line.Plan) time.Duration {
	d := 2 * time.Minute
	for _, r := range plan.Runs {
		d += r.Timeout + 90*time.Second
	}
	return d
}

package guest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"sitewire/topologies/netns"
)

const (
	// kernelEnv chooses the kernel where Options do not: a name of suites, or a directory with an unpacked kernel package.
	kernelEnv = "SITEWIRE_GUEST_KERNEL"
	// mirrorEnv is where the packages come from, if not from defaultMirror.
	mirrorEnv     = "SITEWIRE_DEBIAN_MIRROR"
	defaultMirror = "http://deb.debian.org/debian"
	keyring       = "/usr/share/keyrings/debian-archive-keyring.gpg"
	// metaPackage depends on the newest kernel of a suite that is made for virtual machines.
	metaPackage = "linux-image-cloud-amd64"
)

// The kernels that can be had by name: suites of Debian.
const (
	// Bookworm is Debian 12's kernel, 6.1: it cannot remove a single allowed-IP.
	Bookworm = "bookworm"
	// Newest is the newest kernel that Debian packages: 6.16 and later can remove a single allowed-IP.
	Newest = "trixie-backports"
)

// suites lists the names that kernelEnv may have.
var suites = []string{Bookworm, "bookworm-backports", "trixie", Newest}

// kernel is an unpacked kernel package.
type kernel struct {
	image   string // vmlinuz
	modules string // the directory lib/modules/RELEASE
}

// chosenKernel is the name of the kernel to boot.
func chosenKernel(name string) (string, error) {
	name = cmp.Or(name, os.Getenv(kernelEnv), Bookworm)
	if !strings.Contains(name, "/") && !slices.Contains(suites, name) {
		return "", fmt.Errorf("%s: no kernel is called %q: want one of %s, or a directory with an unpacked package", kernelEnv, name, strings.Join(suites, ", "))
	}
	return name, nil
}

// kernels remembers what findKernel found out, since a download takes a while and its failure, too.
var kernels = struct {
	sync.Mutex
	found  map[string]*kernel
	failed map[string]error
}{found: make(map[string]*kernel), failed: make(map[string]error)}

// findKernel returns the kernel of that name (see chosenKernel) from the cache, and downloads it if it is not there. The error is an
// *Unavailable where this machine cannot have it.
func findKernel(name string) (*kernel, error) {
	kernels.Lock()
	defer kernels.Unlock()
	if k := kernels.found[name]; k != nil {
		return k, nil
	}
	if err := kernels.failed[name]; err != nil {
		return nil, err
	}
	k, err := openKernel(name)
	if err != nil {
		kernels.failed[name] = err
		return nil, err
	}
	kernels.found[name] = k
	return k, nil
}

func openKernel(name string) (*kernel, error) {
	if strings.Contains(name, "/") {
		return lookInto(name)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, unavailableKernel(name, err)
	}
	dir := filepath.Join(cache, "sitewire", "guest", name)
	if k, err := lookInto(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := download(name, dir); err != nil {
		return nil, unavailableKernel(name, err)
	}
	return lookInto(dir)
}

func unavailableKernel(name string, err error) error {
	return &netns.Unavailable{
		What: "Debian's kernel package (" + name + ")", Why: err.Error(),
		Fix: fmt.Sprintf("let this machine reach %s, or set %s to another mirror, or %s to a directory with an unpacked %s", mirror(), mirrorEnv, kernelEnv, metaPackage),
	}
}

func mirror() string { return cmp.Or(os.Getenv(mirrorEnv), defaultMirror) }

// lookInto finds the parts of a kernel in an unpacked package.
func lookInto(dir string) (*kernel, error) {
	k := new(kernel)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(d.Name(), "vmlinuz") && d.Type().IsRegular():
			k.image = path
		case d.IsDir() && d.Name() == "kernel" && filepath.Base(filepath.Dir(filepath.Dir(path))) == "modules":
			k.modules = filepath.Dir(path)
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if k.image == "" || k.modules == "" {
		return nil, fmt.Errorf("%s holds no vmlinuz or no lib/modules/*/kernel: remove it, or unpack a kernel package there", dir)
	}
	return k, nil
}

// kernelPart matches the packages that together are one kernel: newer Debian splits the image from the modules.
var kernelPart = regexp.MustCompile(`^linux-(image|binary|modules)-[0-9]`)

// download fetches the newest kernel of a suite and unpacks it into dir. It uses apt with lists and a cache of its own: what is installed
// on this machine, and from where, is neither asked nor changed.
func download(suite, dir string) (err error) {
	for _, program := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := netns.Program(program); err != nil {
			return err
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("%w: apt-get install debian-archive-keyring", err)
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(parent, "download-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	a := &apt{dir: work}
	if err := a.setUp(fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror(), suite)); err != nil {
		return err
	}
	if _, err := a.run("apt-get", "update", "-qq", "--error-on=any"); err != nil {
		return err
	}
	packages, err := a.kernelParts(metaPackage)
	if err != nil {
		return err
	}
	if _, err := a.run("apt-get", append([]string{"download", "-qq"}, packages...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return err
	}
	unpacked := filepath.Join(work, "unpacked")
	for _, f := range files {
		if _, err := a.run("dpkg-deb", "-x", f, unpacked); err != nil {
			return err
		}
	}
	if err := os.Rename(unpacked, dir); err != nil && !errors.Is(err, fs.ErrExist) { // somebody else was faster
		return err
	}
	return nil
}

// apt runs Debian's package tools on a state of its own.
type apt struct{ dir string }

func (a *apt) setUp(source string) error {
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	list := filepath.Join(a.dir, "sources.list")
	conf := fmt.Sprintf(`Dir::State::lists %q;
Dir::Cache %q;
Dir::Etc::sourcelist %q;
Dir::Etc::sourceparts "/dev/null";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
`, filepath.Join(a.dir, "lists"), filepath.Join(a.dir, "cache"), list)
	return errors.Join(os.WriteFile(list, []byte(source), 0o644), os.WriteFile(filepath.Join(a.dir, "apt.conf"), []byte(conf), 0o644))
}

func (a *apt) run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLines(string(out), 3))
	}
	return string(out), nil
}

// kernelParts follows the dependencies of a package to those that hold a part of the kernel.
func (a *apt) kernelParts(pkg string) ([]string, error) {
	var parts []string
	for todo := []string{pkg}; len(todo) > 0; todo = todo[1:] {
		out, err := a.run("apt-cache", "depends", "--important", todo[0])
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			_, dep, ok := strings.Cut(strings.TrimSpace(line), "Depends: ")
			if ok && kernelPart.MatchString(dep) && !slices.Contains(parts, dep) {
				parts = append(parts, dep)
				todo = append(todo, dep)
			}
		}
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("%s depends on no kernel: %s names another package now?", pkg, metaPackage)
	}
	return parts, nil
}

// lastLines is the end of a text, on one line.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

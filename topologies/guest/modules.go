package guest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// modules are the parts of the kernel that networks of tests use. The kernel of a guest loads none by itself.
var modules = []string{
	"wireguard", "veth", "tun", "dummy", "vrf", "bridge", "ifb", "macvlan",
	"nf_tables", "nft_ct", "nft_chain_nat", "nft_masq", "nft_nat", "nft_fib_inet", "nft_limit", "nft_log", "nft_reject_inet", "nft_numgen",
	"nft_exthdr", "nf_tables_inet", "nft_rt_inet",
	"sch_netem", "sch_htb", "sch_tbf", "sch_fq_codel", "sch_ingress", "cls_u32", "act_mirred",
	"inet_diag", "tcp_diag", "udp_diag",
}

// module is one file of the kernel package, not compressed.
type module struct {
	name string
	code []byte
}

// loadOrder returns the modules and those that they depend on, each after those. Names that are built into the kernel, or that this
// kernel has not got, are left out, except wireguard and veth, without which a guest is of no use.
func (k *kernel) loadOrder(names []string) ([]module, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(k.modules, func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(d.Name(), ".ko"); err == nil && ok {
			files[canonical(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, needed := range []string{"wireguard", "veth"} {
		if slices.Contains(names, needed) && files[needed] == "" {
			return nil, fmt.Errorf("%s has no module %s", k.modules, needed)
		}
	}
	var order []module
	seen := make(map[string]bool)
	var visit func(name string) error
	visit = func(name string) error {
		name = canonical(name)
		path := files[name]
		if seen[name] || path == "" {
			return nil
		}
		seen[name] = true
		code, err := readModule(path)
		if err != nil {
			return err
		}
		depends, err := dependencies(code)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range depends {
			if err := visit(d); err != nil {
				return err
			}
		}
		order = append(order, module{name: name, code: code})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// canonical: file names have dashes where the names that modules use for each other have underscores.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func readModule(path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	cmd := exec.Command("xz", "--decompress", "--stdout", path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	code, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("xz %s: %w: %s", path, err, &stderr)
	}
	return code, nil
}

// dependencies reads which modules a module names in its section .modinfo, a row of NAME=VALUE texts. depmod does the same.
func dependencies(code []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(code))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if value, ok := strings.CutPrefix(string(entry), "depends="); ok && value != "" {
			return strings.Split(value, ","), nil
		}
	}
	return nil, nil
}

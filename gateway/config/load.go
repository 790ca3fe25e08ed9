package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Defaults that other values do not decide.
const (
	defaultListenPort = 51820
	defaultMetrics    = "127.0.0.1:9587"
	defaultBGPPort    = 179
	defaultKeepalive  = 25 * time.Second
	mainTable         = 254
)

func defaults(path string) *raw {
	return &raw{Config: Config{
		Path:     path,
		Log:      Log{Format: "text"},
		StateDir: "/var/lib/sitewire",
		Socket:   "/run/sitewire/sitewire.sock",
		Metrics:  Metrics{Listen: defaultMetrics},
		WireGuard: WireGuard{
			Backend:      BackendAuto,
			FirewallMark: 0x5357, // "SW"
			StatsShare:   5,
		},
		Probe: Probe{Timeout: 3 * time.Second},
		BGP: BGP{
			Port: defaultBGPPort, HoldTime: 90 * time.Second, ConnectRetry: 5 * time.Second,
			GracefulRestart: true, RestartTime: 120 * time.Second, MaxPaths: 1,
		},
		Routes: Routes{
			Table: mainTable, Metric: 512, Protocol: 83, Unreachable: true, NexthopObjects: true,
			CompressAbove: 0, ReconcileEvery: time.Minute, SweepAfter: 2 * time.Minute,
		},
	}}
}

// Load reads the file and conf.d/*.yaml in the directory beside it, in lexical order, and returns the configuration
// that they make together. An error is of type Errors, and has every mistake that was found. Nothing else of the
// host is looked at: neither devices nor names nor clocks.
func Load(path string, opts Options) (*Config, error) {
	d := &decoder{opts: opts, where: map[any]*node{}, bad: map[any]bool{}}
	top := d.readAll(path)
	if top == nil || len(d.errs) > 0 && top.form != mapping {
		return nil, d.failed()
	}
	r := defaults(path)
	topObject().into(d, top, r)
	c := r.resolve(d)
	if len(d.errs) > 0 {
		return nil, d.failed()
	}
	for _, s := range d.sources {
		c.Files = append(c.Files, s.path)
	}
	c.Warnings = d.warnings
	slices.SortStableFunc(c.Warnings, func(a, b Warning) int {
		return d.compareErrors(&Error{File: a.File, Line: a.Line, Column: a.Column}, &Error{File: b.File, Line: b.Line, Column: b.Column})
	})
	return c, nil
}

func (d *decoder) failed() error {
	slices.SortStableFunc(d.errs, d.compareErrors)
	return d.errs
}

// readAll reads and merges all files. Nil means that the main file cannot be used at all.
func (d *decoder) readAll(path string) *node {
	known := knownKeys(topObject().schema())
	top := d.readOne(path, known)
	if top == nil {
		return nil
	}
	dir := filepath.Join(filepath.Dir(path), "conf.d")
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		d.errorAt(&source{path: dir}, 0, 0, reason(err), "")
	}
	for _, e := range entries { // sorted by name
		name := filepath.Join(dir, e.Name())
		switch ext := filepath.Ext(name); {
		case strings.HasPrefix(e.Name(), "."), e.IsDir():
		case ext == ".yml":
			d.warnings = append(d.warnings, Warning{File: name, Message: "not read: the files of conf.d end in .yaml"})
		case ext == ".yaml":
			if other := d.readOne(name, known); other != nil {
				if other.form != mapping && other.form != empty {
					d.errorf(other, "the file is a mapping (keys with values), this is %v", other.form)
					continue
				}
				top.merge(d, other)
			}
		}
	}
	return top
}

func (d *decoder) readOne(path string, known []string) *node {
	src := &source{path: path, order: len(d.sources)}
	d.sources = append(d.sources, src)
	data, mode, err := readConfig(path)
	if err != nil {
		d.errorAt(src, 0, 0, reason(err), "")
		return nil
	}
	src.lines, src.mode = maskLines(string(data), known), mode
	return d.parse(src, data)
}

func readConfig(path string) (data []byte, mode uint32, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if data, err = io.ReadAll(io.LimitReader(f, maxFileSize+1)); err != nil {
		return nil, 0, err
	}
	if len(data) > maxFileSize {
		return nil, 0, fmt.Errorf("larger than %d MiB", maxFileSize>>20)
	}
	return data, uint32(info.Mode().Perm()), nil
}

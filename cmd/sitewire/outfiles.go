package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// outFile is a file to write, for its owner only.
type outFile struct {
	path string
	data []byte
}

// writeFiles writes all files or, as far as anybody can, none: first beside where they belong, then to their places. Files that are there
// are not overwritten without force; those that already are what they should be stay.
func writeFiles(files []outFile, force bool) (err error) {
	var todo []outFile
	var there []string
	for _, f := range files {
		fi, err := os.Lstat(f.path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			todo = append(todo, f)
		case err != nil:
			return err // names the file
		case same(f, fi):
		case !fi.Mode().IsRegular():
			return fmt.Errorf("%s is not a regular file: nothing was written", f.path)
		case force:
			todo = append(todo, f)
		default:
			there = append(there, f.path)
		}
	}
	if len(there) > 0 {
		return fmt.Errorf("%s: exists, and is another: nothing was written\n--force overwrites", strings.Join(there, ", "))
	}
	var temporary []string
	defer func() {
		for _, t := range temporary {
			if e := os.Remove(t); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}()
	for _, f := range todo {
		t, err := os.CreateTemp(filepath.Dir(f.path), ".sitewire-*") // mode 0600
		if err != nil {
			return err
		}
		temporary = append(temporary, t.Name())
		_, err = t.Write(f.data)
		if err = errors.Join(err, t.Sync(), t.Close()); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	for i, f := range todo {
		move := os.Link // fails if somebody was faster
		if force {
			move = os.Rename
		}
		if err := move(temporary[i], f.path); err != nil {
			for _, done := range todo[:i] {
				if !force {
					err = errors.Join(err, os.Remove(done.path))
				}
			}
			return err
		}
	}
	return nil
}

// same tells whether a file is already what it is to be.
func same(f outFile, fi os.FileInfo) bool {
	if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o077 != 0 || fi.Size() != int64(len(f.data)) {
		return false
	}
	data, err := os.ReadFile(f.path)
	return err == nil && bytes.Equal(data, f.data)
}

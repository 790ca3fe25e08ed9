package guest

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
)

// cpioWriter writes an archive in cpio's newc format, the one that the kernel unpacks (Documentation/driver-api/early-userspace/
// buffer-format.rst): for each file a header of 13 hexadecimal numbers, the name and the content, each filled up to 4 bytes.
type cpioWriter struct {
	w     *bufio.Writer
	inode int
	err   error
}

func newCpioWriter(w io.Writer) *cpioWriter { return &cpioWriter{w: bufio.NewWriterSize(w, 1<<20)} }

// Types of files as in stat(2).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioLink = 0o120000
)

// dir, file and link add an entry; the path has no slash at its start. Errors are kept for close.
func (c *cpioWriter) dir(path string)          { c.add(path, cpioDir|0o755, nil) }
func (c *cpioWriter) link(path, target string) { c.add(path, cpioLink|0o777, []byte(target)) }
func (c *cpioWriter) file(path string, mode fs.FileMode, content []byte) {
	c.add(path, cpioFile|uint32(mode.Perm()), content)
}

func (c *cpioWriter) add(path string, mode uint32, content []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	links := 1
	if mode&cpioDir == cpioDir && mode&cpioFile != cpioFile {
		links = 2
	}
	// magic, inode, mode, uid, gid, links, mtime, size, device major and minor, rdev major and minor, length of the name, check (0)
	_, c.err = fmt.Fprintf(c.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path)+1, 0)
	const header = 6 + 13*8
	c.write([]byte(path))
	c.write(make([]byte, 1+pad4(header+len(path)+1)))
	c.write(content)
	c.write(make([]byte, pad4(len(content))))
}

func (c *cpioWriter) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
}

func (c *cpioWriter) close() error {
	c.add("TRAILER!!!", 0, nil)
	if c.err != nil {
		return fmt.Errorf("write the initramfs: %w", c.err)
	}
	return c.w.Flush()
}

// pad4 is how many bytes are missing to a multiple of 4.
func pad4(n int) int { return -n & 3 }

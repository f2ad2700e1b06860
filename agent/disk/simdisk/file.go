package simdisk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"time"
)

const sector = 512

// inode is a file.
type inode struct {
	content []byte // as it is read
	durable []byte // what a power cut leaves for sure
	pending []write
}

// write is one that was not synced: data at an offset, and how long the file was after
// it at least. cut: the file was truncated to nothing.
type write struct {
	at   int
	data []byte
	cut  bool
}

func (w write) apply(content []byte) []byte {
	if w.cut {
		return nil
	}
	if extra := w.at + len(w.data) - len(content); extra > 0 {
		content = append(content, make([]byte, extra)...)
	}
	copy(content[w.at:], w.data)
	return content
}

func (n *inode) write(w write) {
	n.content = w.apply(n.content)
	n.pending = append(n.pending, w)
}

func (n *inode) sync() {
	if len(n.pending) > 0 {
		n.durable, n.pending = append([]byte(nil), n.content...), nil
	}
}

// lose is a power cut. keep says whether a sector of a write reached the disk.
func (n *inode) lose(keep func() bool) {
	for _, w := range n.pending {
		if w.cut {
			if keep() {
				n.durable = nil
			}
			continue
		}
		for from := 0; from < len(w.data); {
			to := min(len(w.data), from+sector-(w.at+from)%sector)
			if keep() {
				n.durable = write{at: w.at + from, data: w.data[from:to]}.apply(n.durable)
			}
			from = to
		}
	}
	n.pending = nil
	n.content = append([]byte(nil), n.durable...)
}

// file is an open one.
type file struct {
	disk     *Disk
	path     string
	node     *inode
	at       int64
	writable bool
}

var _ interface {
	io.ReaderAt
	io.WriterAt
} = (*file)(nil)

func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.at)
	f.at += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, at int64) (int, error) {
	if f.disk.off {
		return 0, &fs.PathError{Op: "read", Path: f.path, Err: ErrCut}
	}
	if at >= int64(len(f.node.content)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.content[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.at)
	f.at += int64(n)
	return n, err
}

// WriteAt writes half when it fails, as a disk does that fills up.
func (f *file) WriteAt(p []byte, at int64) (int, error) {
	if !f.writable {
		return 0, &fs.PathError{Op: "write", Path: f.path, Err: os.ErrPermission}
	}
	data := append([]byte(nil), p...)
	err := f.disk.change("write", f.path, func(half bool) {
		w := write{at: int(at), data: data}
		if half {
			w.data = data[:len(data)/2]
		}
		f.node.write(w)
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += int64(len(f.node.content))
	}
	f.at = offset
	return offset, nil
}

// Sync that fails loses what it should have written: the kernel counts it as written
// all the same, and no later sync brings it back.
func (f *file) Sync() error {
	err := f.disk.change("sync", f.path, func(bool) { f.node.sync() })
	if err != nil && !errors.Is(err, ErrCut) {
		f.node.pending = nil
	}
	return err
}

func (f *file) Close() error { return nil }

// info is what Stat says.
type info struct {
	name string
	size int64
	mode fs.FileMode
}

func infoOf(name string, size int64, mode fs.FileMode) info { return info{path.Base(name), size, mode} }

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

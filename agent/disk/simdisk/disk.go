package simdisk

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"groundswell/agent/disk"
)

// ErrCut: the power is off, or the process was killed.
var ErrCut = errors.New("cut off")

// Change is one change of the disk that is about to be made.
type Change struct {
	Number int // from 1, since New
	Op     string
	Path   string
}

// Verdict is what becomes of a change.
type Verdict struct {
	// Err refuses it. With Half, a write has written half before that.
	Err  error
	Half bool
	// CutBefore and CutAfter cut everything off.
	CutBefore, CutAfter bool
}

// name is what a directory holds: a file or a link.
type name struct {
	node   *inode
	target string // of a link
}

// dir is a directory.
type dir struct {
	names   map[string]name
	durable map[string]name
	pending []map[string]*name // changes that were not synced; nil removes
}

// Disk is a disk. Ask, if set, decides about each change; Cut, if set, is called when it
// is cut off.
type Disk struct {
	Ask func(Change) Verdict
	Cut func()

	dirs    map[string]*dir
	changes int
	off     bool
}

var _ disk.FS = (*Disk)(nil)

// New returns an empty disk.
func New() *Disk { return &Disk{dirs: map[string]*dir{}} }

// Changes is how many there were, refused ones included.
func (d *Disk) Changes() int { return d.changes }

// Put places a file durably, with its directories, without any change being counted:
// what was there before the device was born.
func (d *Disk) Put(file string, content []byte) {
	d.mkdir(path.Dir(file))
	n := &inode{content: append([]byte(nil), content...), durable: append([]byte(nil), content...)}
	dir := d.dirs[path.Dir(file)]
	dir.names[path.Base(file)], dir.durable[path.Base(file)] = name{node: n}, name{node: n}
}

// Flip flips a bit of a file, also where it was synced, as a bad flash cell does. It
// reports whether there was one.
func (d *Disk) Flip(file string, random *rand.Rand) bool {
	n, ok := d.look(file)
	if !ok || n.node == nil || len(n.node.content) == 0 || len(n.node.durable) != len(n.node.content) {
		return false
	}
	i, bit := random.IntN(len(n.node.content)), byte(1)<<random.IntN(8)
	n.node.content[i] ^= bit
	n.node.durable[i] ^= bit
	return true
}

// Settle makes all durable that there is.
func (d *Disk) Settle() {
	for _, dir := range d.dirs {
		dir.pending, dir.durable = nil, map[string]name{}
		for file, n := range dir.names {
			dir.durable[file] = n
			if n.node != nil {
				n.node.sync()
			}
		}
	}
}

// PowerOff cuts the disk off now.
func (d *Disk) PowerOff() {
	if d.off {
		return
	}
	d.off = true
	if d.Cut != nil {
		d.Cut()
	}
}

// Off reports whether it was cut off and not restarted.
func (d *Disk) Off() bool { return d.off }

// Restart makes the disk work again. After a kill it is as it was; after a power cut,
// what was not synced is there as far as keep says, asked for each sector and name.
func (d *Disk) Restart(power bool, keep func() bool) {
	d.off = false
	if !power {
		return
	}
	var nodes []*inode
	add := func(n *inode) {
		if n != nil && !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	for _, p := range slices.Sorted(keys(d.dirs)) {
		dir := d.dirs[p]
		for _, of := range []map[string]name{dir.names, dir.durable} {
			for _, file := range slices.Sorted(keys(of)) {
				add(of[file].node)
			}
		}
		for _, change := range dir.pending { // a file may have been there only for a while
			for _, file := range slices.Sorted(keys(change)) {
				if n := change[file]; n != nil {
					add(n.node)
				}
			}
		}
	}
	for _, n := range nodes {
		n.lose(keep)
	}
	for _, p := range slices.Sorted(keys(d.dirs)) {
		dir := d.dirs[p]
		for _, change := range dir.pending {
			if !keep() {
				break
			}
			apply(dir.durable, change)
		}
		dir.pending, dir.names = nil, map[string]name{}
		for file, n := range dir.durable {
			dir.names[file] = n
		}
	}
}

func keys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func apply(names map[string]name, change map[string]*name) {
	for file, n := range change {
		if n == nil {
			delete(names, file)
		} else {
			names[file] = *n
		}
	}
}

// change makes one change, or not.
func (d *Disk) change(op, p string, do func(half bool)) error {
	failed := func(err error) error { return &fs.PathError{Op: op, Path: p, Err: err} }
	if d.off {
		return failed(ErrCut)
	}
	d.changes++
	var v Verdict
	if d.Ask != nil {
		v = d.Ask(Change{d.changes, op, p})
	}
	switch {
	case v.CutBefore:
		d.PowerOff()
		return failed(ErrCut)
	case v.Err != nil:
		if v.Half && op == "write" {
			do(true)
		}
		return failed(v.Err)
	}
	do(false)
	if v.CutAfter {
		d.PowerOff()
		return failed(ErrCut)
	}
	return nil
}

// rename changes names of one directory, all at once.
func (d *Disk) rename(op, p string, change map[string]*name) error {
	dir := d.dirs[path.Dir(p)]
	if dir == nil {
		return &fs.PathError{Op: op, Path: p, Err: syscall.ENOENT}
	}
	return d.change(op, p, func(bool) {
		apply(dir.names, change)
		dir.pending = append(dir.pending, change)
	})
}

func (d *Disk) look(p string) (name, bool) {
	dir := d.dirs[path.Dir(p)]
	if dir == nil {
		return name{}, false
	}
	n, ok := dir.names[path.Base(p)]
	return n, ok
}

func (d *Disk) mkdir(p string) {
	for ; d.dirs[p] == nil; p = path.Dir(p) {
		d.dirs[p] = &dir{names: map[string]name{}, durable: map[string]name{}}
	}
}

// reads is nil when something can be read.
func (d *Disk) reads(op, p string) error {
	if d.off {
		return &fs.PathError{Op: op, Path: p, Err: ErrCut}
	}
	return nil
}

// OpenFile implements disk.FS. A link is not followed.
func (d *Disk) OpenFile(p string, flag int, _ fs.FileMode) (disk.File, error) {
	if err := d.reads("open", p); err != nil {
		return nil, err
	}
	n, ok := d.look(p)
	if ok && n.node == nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.ELOOP}
	}
	if !ok {
		if flag&os.O_CREATE == 0 {
			return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.ENOENT}
		}
		n = name{node: &inode{}}
		if err := d.rename("create", p, map[string]*name{path.Base(p): &n}); err != nil {
			return nil, err
		}
	} else if flag&os.O_TRUNC != 0 && len(n.node.content) > 0 {
		if err := d.change("truncate", p, func(bool) { n.node.write(write{cut: true}) }); err != nil {
			return nil, err
		}
	}
	return &file{disk: d, path: p, node: n.node, writable: flag&(os.O_WRONLY|os.O_RDWR) != 0}, nil
}

// Stat implements disk.FS.
func (d *Disk) Stat(p string) (fs.FileInfo, error) {
	if n, ok := d.look(p); ok && n.node == nil {
		return d.Lstat(path.Join(path.Dir(p), n.target))
	}
	return d.Lstat(p)
}

// Lstat implements disk.FS.
func (d *Disk) Lstat(p string) (fs.FileInfo, error) {
	if err := d.reads("stat", p); err != nil {
		return nil, err
	}
	if d.dirs[p] != nil {
		return infoOf(p, 0, fs.ModeDir|0o700), nil
	}
	n, ok := d.look(p)
	switch {
	case !ok:
		return nil, &fs.PathError{Op: "stat", Path: p, Err: syscall.ENOENT}
	case n.node == nil:
		return infoOf(p, int64(len(n.target)), fs.ModeSymlink|0o777), nil
	}
	return infoOf(p, int64(len(n.node.content)), 0o600), nil
}

// Glob implements disk.FS, for patterns in the last element.
func (d *Disk) Glob(pattern string) ([]string, error) {
	if err := d.reads("glob", pattern); err != nil {
		return nil, err
	}
	var found []string
	for p, dir := range d.dirs {
		if p != path.Dir(pattern) {
			continue
		}
		for file := range dir.names {
			if ok, err := path.Match(path.Base(pattern), file); err != nil {
				return nil, err
			} else if ok {
				found = append(found, path.Join(p, file))
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

// Readlink implements disk.FS.
func (d *Disk) Readlink(p string) (string, error) {
	if err := d.reads("readlink", p); err != nil {
		return "", err
	}
	if n, ok := d.look(p); ok && n.node == nil {
		return n.target, nil
	}
	return "", &fs.PathError{Op: "readlink", Path: p, Err: syscall.ENOENT}
}

// MkdirAll implements disk.FS. Directories are durable at once.
func (d *Disk) MkdirAll(p string, _ fs.FileMode) error {
	if d.dirs[p] != nil {
		return d.reads("mkdir", p)
	}
	return d.change("mkdir", p, func(bool) { d.mkdir(strings.TrimSuffix(p, "/")) })
}

// Chmod implements disk.FS; modes are not kept.
func (d *Disk) Chmod(p string, _ fs.FileMode) error {
	if _, ok := d.look(p); !ok {
		return &fs.PathError{Op: "chmod", Path: p, Err: syscall.ENOENT}
	}
	return d.change("chmod", p, func(bool) {})
}

// Remove implements disk.FS.
func (d *Disk) Remove(p string) error {
	if err := d.reads("remove", p); err != nil {
		return err
	}
	if _, ok := d.look(p); !ok {
		return &fs.PathError{Op: "remove", Path: p, Err: syscall.ENOENT}
	}
	return d.rename("remove", p, map[string]*name{path.Base(p): nil})
}

// Rename implements disk.FS, within a directory.
func (d *Disk) Rename(from, to string) error {
	if err := d.reads("rename", from); err != nil {
		return err
	}
	n, ok := d.look(from)
	if !ok {
		return &fs.PathError{Op: "rename", Path: from, Err: syscall.ENOENT}
	}
	if path.Dir(from) != path.Dir(to) {
		return &fs.PathError{Op: "rename", Path: from, Err: syscall.EXDEV}
	}
	return d.rename("rename", to, map[string]*name{path.Base(from): nil, path.Base(to): &n})
}

// Link implements disk.FS, within a directory.
func (d *Disk) Link(from, to string) error {
	if err := d.reads("link", from); err != nil {
		return err
	}
	n, ok := d.look(from)
	if !ok {
		return &fs.PathError{Op: "link", Path: from, Err: syscall.ENOENT}
	}
	if _, taken := d.look(to); taken {
		return &fs.PathError{Op: "link", Path: to, Err: syscall.EEXIST}
	}
	return d.rename("link", to, map[string]*name{path.Base(to): &n})
}

// Symlink implements disk.FS.
func (d *Disk) Symlink(target, p string) error {
	if err := d.reads("symlink", p); err != nil {
		return err
	}
	if _, taken := d.look(p); taken {
		return &fs.PathError{Op: "symlink", Path: p, Err: syscall.EEXIST}
	}
	return d.rename("symlink", p, map[string]*name{path.Base(p): {target: target}})
}

// SyncDir implements disk.FS.
func (d *Disk) SyncDir(p string) error {
	dir := d.dirs[p]
	if dir == nil {
		return &fs.PathError{Op: "sync-dir", Path: p, Err: syscall.ENOENT}
	}
	return d.change("sync-dir", p, func(bool) {
		for _, change := range dir.pending {
			apply(dir.durable, change)
		}
		dir.pending = nil
	})
}

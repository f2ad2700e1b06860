package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"groundswell/agent/disk"
)

// MaxFile bounds what is read back from disk, in bytes.
const MaxFile = 64 << 20

// ErrDamaged: neither generation of a file can be read.
var ErrDamaged = errors.New("damaged on disk")

// File is a file that is replaced as a whole, durably, with its previous
// content kept beside it (name + ".old"). Use one File per path.
type File struct {
	on         disk.FS
	path       string
	generation uint64
	written    bool // what is at path is whole
	unsure     bool // what Load found may be gone after a power cut
}

// NewFile does no I/O.
func NewFile(path string) *File { return NewFileOn(disk.OS, path) }

// NewFileOn is NewFile on another file system than the machine's.
func NewFileOn(on disk.FS, path string) *File { return &File{on: on, path: path} }

const magic = "groundswell-journal-1"

// Load returns the newest content that is whole. older reports that it is not
// the newest that was written. Nothing there at all is os.ErrNotExist;
// something, but nothing whole, is ErrDamaged.
//
// Whoever wrote it may have been killed before it was durable, and a power cut would
// take back what was done since on the strength of it; so it is made durable first.
// Where the disk refuses even that, what is there is all there is, and Unsure says so.
func (f *File) Load() (body []byte, older bool, err error) {
	f.unsure = f.on.SyncDir(filepath.Dir(f.path)) != nil
	newest, err := f.readWhole(f.path)
	if err == nil {
		f.generation, f.written = newest.generation, true
		return newest.body, false, nil
	}
	before, errOld := f.readWhole(f.path + ".old")
	if errOld == nil {
		f.generation = before.generation
		return before.body, true, nil
	}
	if errors.Is(err, os.ErrNotExist) && errors.Is(errOld, os.ErrNotExist) {
		return nil, false, fmt.Errorf("%s: %w", filepath.Base(f.path), os.ErrNotExist)
	}
	return nil, false, fmt.Errorf("%s: %w: %w", filepath.Base(f.path), ErrDamaged, errors.Join(err, errOld))
}

// errUnsure: the new content has the place of the old one, but perhaps not after a power
// cut.
var errUnsure = errors.New("it is not known whether it is durable")

// Save replaces the content. When it returns nil, the new content survives a
// power cut. When it fails, what Load returns is as before, unless the error is errUnsure:
// then it may be either.
func (f *File) Save(body []byte) error {
	if err := f.save(body); err != nil {
		return fmt.Errorf("save %s: %w", filepath.Base(f.path), err)
	}
	f.generation++
	f.written, f.unsure = true, false
	return nil
}

// Unsure reports that what Load found may be gone after a power cut, for the disk would
// not say that it is durable. A Save ends that.
func (f *File) Unsure() bool { return f.unsure }

func (f *File) save(body []byte) error {
	tmp := f.path + ".new"
	if err := disk.WriteSynced(f.on, tmp, encode(f.generation+1, body), 0o600); err != nil {
		return err
	}
	// Only a whole file becomes the old generation: after a fallback the old
	// one is all there is.
	if f.written {
		old := f.path + ".old"
		if err := f.on.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := f.on.Link(f.path, old); err != nil {
			return err
		}
	}
	if err := f.on.Rename(tmp, f.path); err != nil {
		return err
	}
	if err := f.on.SyncDir(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("%w: %w", errUnsure, err)
	}
	return nil
}

type content struct {
	generation uint64
	body       []byte
}

// encode puts the header before the body:
// magic, generation, length of the body, SHA-256 of generation and body.
func encode(generation uint64, body []byte) []byte {
	header := fmt.Sprintf("%s %d %d %s\n", magic, generation, len(body), digest(generation, body))
	return append([]byte(header), body...)
}

func digest(generation uint64, body []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", generation)
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

func decode(data []byte) (content, error) {
	line, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok || len(line) > 200 {
		return content{}, errors.New("no header")
	}
	var generation uint64
	var length int
	var sum, name string
	if n, err := fmt.Sscanf(string(line), "%s %d %d %s", &name, &generation, &length, &sum); n != 4 || err != nil || name != magic {
		return content{}, errors.New("no header")
	}
	if length != len(body) {
		return content{}, fmt.Errorf("%d of %d bytes", len(body), length)
	}
	if digest(generation, body) != sum {
		return content{}, errors.New("checksum does not match")
	}
	return content{generation, body}, nil
}

func (f *File) readWhole(path string) (content, error) {
	data, err := disk.ReadFile(f.on, path, MaxFile+1)
	if err != nil {
		return content{}, err
	}
	if len(data) > MaxFile {
		return content{}, errors.New("too large")
	}
	return decode(data)
}

package slot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"groundswell/agent/disk"
)

var (
	// ErrEmpty: no slot holds anything that may run.
	ErrEmpty = errors.New("no slot holds a version that may run")
	// ErrDamaged: an artifact is not what its image says.
	ErrDamaged = errors.New("artifact in the slot is damaged")
	// ErrNoFallback: what runs could not be booted again, so there is nothing
	// to fall back to.
	ErrNoFallback = errors.New("the version to fall back to cannot be booted")
	// ErrGivenUp: the newest boot chose another slot.
	ErrGivenUp = errors.New("another slot was booted")
	// ErrNotStaged: neither the staging file nor the idle slot holds the image.
	ErrNotStaged = errors.New("image is not staged")
	// ErrArtifact: the bytes are those that were signed, but the slots cannot take them.
	ErrArtifact = errors.New("artifact is not for this component")
	// ErrInstaller: what installs on this device has refused the image, and says why.
	ErrInstaller = errors.New("not installed")
	// ErrUnavailable: what installs on this device does not answer now. It may later, and
	// can be asked again.
	ErrUnavailable = errors.New("does not answer")
)

// Dir is the two slots on disk. It is safe for concurrent use.
type Dir struct {
	on   disk.FS
	path string

	mu     sync.Mutex // guards the files and what follows
	booted *string    // what boot chose last, "" if nothing could be; nil before the first
	kept   string     // the slot to keep, while the link could not be pointed to it
	ended  string     // the slot whose trial is over, while that could not be written

	settled bool // what was found here is durable
}

// OpenDir makes the directories. The slots may be empty.
func OpenDir(path string) (*Dir, error) { return OpenDirOn(disk.OS, path) }

// OpenDirOn is OpenDir on another file system than the machine's.
func OpenDirOn(on disk.FS, path string) (*Dir, error) {
	for _, name := range []string{"a", "b"} {
		if err := on.MkdirAll(filepath.Join(path, name), 0o700); err != nil {
			return nil, fmt.Errorf("open slots: %w", err)
		}
	}
	d := &Dir{on: on, path: path}
	_ = d.settle() // again before anything is built on it
	return d, nil
}

// settle makes durable what is in the directories: whoever put it there may have been
// killed before it was, and a power cut would take back what is built on it. Files were
// synced before they got their names.
func (d *Dir) settle() error {
	if d.settled {
		return nil
	}
	for _, path := range []string{filepath.Join(d.path, "a"), filepath.Join(d.path, "b"), d.path} {
		if err := d.on.SyncDir(path); err != nil {
			return err
		}
	}
	d.settled = true
	return nil
}

// doubt notes that a change failed, if it did: it may be there nevertheless, and not be
// durable, and whoever tries again would find it and go on.
func (d *Dir) doubt(err error) error {
	if err != nil {
		d.settled = false
	}
	return err
}

// maxBookkeeping bounds what is read of a file that says what is in the slots.
const maxBookkeeping = 64 << 10

func (d *Dir) file(slot, name string) string { return filepath.Join(d.path, slot, name) }

func other(slot string) string {
	if slot == "a" {
		return "b"
	}
	return "a"
}

// active is the slot that boots by itself; "a" while nothing was provisioned.
func (d *Dir) active() string {
	if d.kept != "" {
		return d.kept
	}
	if target, err := d.on.Readlink(filepath.Join(d.path, "active")); err == nil && target == "b" {
		return "b"
	}
	return "a"
}

// Active is the slot that boots by itself, and what it holds. ErrEmpty when
// nothing was provisioned.
func (d *Dir) Active() (slot string, image Image, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	slot = d.active()
	image, err = d.image(slot)
	if err != nil {
		return slot, Image{}, fmt.Errorf("slot %s: %w", slot, err)
	}
	return slot, image, nil
}

// Idle is the slot that a new version goes into.
func (d *Dir) Idle() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return other(d.active())
}

// Staging is the file that an artifact is downloaded into. Parts of others are
// removed: each artifact has a file of its own, because the part of one is of
// no use to another.
func (d *Dir) Staging(sha256 string) (path string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path = d.staging(other(d.active()), sha256)
	return path, d.discard(path)
}

func (d *Dir) staging(slot, sha256 string) string {
	return d.file(slot, "staging-"+sha256[:min(16, len(sha256))])
}

func (d *Dir) image(slot string) (Image, error) {
	data, err := disk.ReadFile(d.on, d.file(slot, "image.json"), maxBookkeeping)
	if errors.Is(err, os.ErrNotExist) {
		return Image{}, ErrEmpty
	}
	if err != nil {
		return Image{}, err
	}
	var image Image
	if err := json.Unmarshal(data, &image); err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return image, nil
}

// link points the active link to a slot, atomically.
func (d *Dir) link(slot string) error {
	tmp := filepath.Join(d.path, ".active")
	if err := d.remove(tmp); err != nil {
		return err
	}
	if err := d.on.Symlink(slot, tmp); err != nil {
		return err
	}
	if err := d.on.Rename(tmp, filepath.Join(d.path, "active")); err != nil {
		return d.doubt(err)
	}
	d.kept = ""
	return d.doubt(d.on.SyncDir(d.path))
}

func (d *Dir) writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return d.doubt(disk.Replace(d.on, path, data, 0o600))
}

func (d *Dir) remove(path string) error { return d.doubt(disk.Remove(d.on, path)) }

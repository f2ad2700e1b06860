package slot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"groundswell/agent/disk"
)

// Downloads is the directory of the files that artifacts are downloaded into, where
// these are not in the slots themselves.
type Downloads struct {
	On  disk.FS
	Dir string
}

// Path is the file of an artifact.
func (d Downloads) Path(sha256 string) string {
	return filepath.Join(d.Dir, "staging-"+sha256[:min(16, len(sha256))])
}

// belongs is whether a file is the staging file keep, or one about it: such has the same
// name with something behind a dot.
func belongs(path, keep string) bool {
	return keep != "" && (path == keep || strings.HasPrefix(path, keep+"."))
}

// Discard removes all of them but keep and what is about it; keep may be empty.
func (d Downloads) Discard(keep string) error {
	files, err := d.On.Glob(filepath.Join(d.Dir, "staging-*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		if !belongs(path, keep) {
			if err := d.On.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return d.On.SyncDir(d.Dir)
}

// Check verifies the file of an image and makes it durable; ErrNotStaged. A part can be completed, and stays;
// what is long enough and wrong cannot, and is removed.
func (d Downloads) Check(image Image) error {
	path := d.Path(image.SHA256)
	err := Verify(d.On, path, image)
	if err == nil {
		// As the kernel has it: whoever downloaded it may have been killed before it was
		// on the disk.
		if err = disk.Sync(d.On, path); err == nil {
			return nil
		}
		return errors.Join(err, d.On.Remove(path))
	}
	if info, errStat := d.On.Stat(path); errStat == nil && info.Size() >= image.Length {
		err = errors.Join(err, d.On.Remove(path))
	}
	return fmt.Errorf("%w: %w", ErrNotStaged, err)
}

package bucket

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"gocloud.dev/blob/fileblob"
)

// OpenDir makes the directory if it is not there. A name with slashes is a path below
// it. Nothing but what was written lies beside it: no attributes.
func OpenDir(dir string) (*Bucket, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// A temporary file beside the one that it becomes is on the same file system.
	b, err := fileblob.OpenBucket(dir, &fileblob.Options{NoTempDir: true, DirFileMode: 0o755, Metadata: fileblob.MetadataDontWrite})
	if err != nil {
		return nil, err
	}
	// "incoming" is where partial files lay before.
	for _, pattern := range []string{"*/*.tmp", "incoming/*"} {
		if err := clearFiles(filepath.Join(dir, pattern)); err != nil {
			return nil, err
		}
	}
	return &Bucket{bucket: b, dir: dir}, nil
}

func clearFiles(pattern string) error {
	partial, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, path := range partial {
		info, err := os.Stat(path)
		if err != nil || info.IsDir() || time.Since(info.ModTime()) < abandoned {
			continue // gone already, or another replica is writing it
		}
		_ = os.Remove(path) // the next start tries again
	}
	return nil
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", dir)
	}
	return err
}

// temporary is the file that is written, as far as a writer may meddle with it.
type temporary interface {
	Sync() error
	Chmod(os.FileMode) error
}

// keepFile is a BeforeWrite: it gets hold of the file.
func (w *Writer) keepFile(as func(any) bool) error {
	var file *os.File
	if !as(&file) {
		return errors.New("the file is not shown, so it cannot be synced")
	}
	w.file = file
	return nil
}

// commitFile syncs the bytes before they have their name, and the name before it is
// relied on.
func (w *Writer) commitFile() error {
	err := w.file.Chmod(0o644)
	if err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		w.Abort()
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	for dir := filepath.Dir(filepath.Join(w.bucket.dir, w.name)); ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
		if len(dir) <= len(w.bucket.dir) {
			return nil
		}
	}
}

// syncDir makes a rename survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"gocloud.dev/blob"
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
	// Artifacts lie in ab/, what is packed of them in blocks/ab/ and packs/ab/; "incoming" is
	// where partial files lay before.
	for _, pattern := range []string{"*/*.tmp", "*/*/*.tmp", "incoming/*"} {
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

// putFile syncs the bytes before they have their name, and the name before it is relied
// on.
func (b *Bucket) putFile(ctx context.Context, name string, source io.Reader, options *blob.WriterOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var file *os.File
	options.BeforeWrite = func(as func(any) bool) error {
		if !as(&file) {
			return errors.New("the file is not shown, so it cannot be synced")
		}
		return nil
	}
	w, err := b.bucket.NewWriter(ctx, name, options)
	if err != nil {
		return err
	}
	if _, err = io.Copy(w, source); err == nil {
		err = errors.Join(file.Chmod(0o644), file.Sync())
	}
	if err != nil {
		cancel()      // which makes Close
		_ = w.Close() // throw it away
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	for dir := filepath.Dir(filepath.Join(b.dir, name)); ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
		if len(dir) <= len(b.dir) {
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

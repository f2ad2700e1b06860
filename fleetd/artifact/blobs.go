package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// The refusals of this package, besides those of certs/trust.
var (
	// ErrNoArtifact: no artifact of that name is stored.
	ErrNoArtifact = errors.New("no such artifact")
	// ErrTooLarge: the artifact is larger than the catalogue takes.
	ErrTooLarge = errors.New("artifact too large")
	// ErrName: the name is not a SHA-256 in lower-case hex.
	ErrName = errors.New("not a SHA-256 in lower-case hex")
)

// Blobs is a directory of artifacts named by their SHA-256. It is safe for
// concurrent use, also by several processes.
type Blobs struct {
	dir string
	max int64
}

// abandoned is when a partial upload cannot be anybody's any more.
const abandoned = 48 * time.Hour

// OpenBlobs makes the directory if it is not there and clears away what
// uploads left behind that a crash cut off. max bounds one artifact in bytes.
func OpenBlobs(dir string, max int64) (*Blobs, error) {
	b := &Blobs{dir: dir, max: max}
	if err := os.MkdirAll(b.incoming(), 0o755); err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	partial, err := os.ReadDir(b.incoming())
	if err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	for _, entry := range partial {
		info, err := entry.Info()
		if err != nil || time.Since(info.ModTime()) < abandoned {
			continue // gone already, or another replica is writing it
		}
		_ = os.Remove(filepath.Join(b.incoming(), entry.Name())) // the next start tries again
	}
	return b, nil
}

func (b *Blobs) incoming() string { return filepath.Join(b.dir, "incoming") }

// path is where an artifact lies. Two letters of its name make the directory,
// so that none grows too large to list.
func (b *Blobs) path(sha256 string) (string, error) {
	if topics.CheckDigest("", sha256) != nil {
		return "", fmt.Errorf("%w: %.80q", ErrName, sha256)
	}
	return filepath.Join(b.dir, sha256[:2], sha256), nil
}

// Put stores the bytes of source under their digest and returns false when
// they were there already. Nothing is stored unless length and digest are
// right: trust.ErrLength, trust.ErrDigest. More than the limit is ErrTooLarge,
// before anything is read.
func (b *Blobs) Put(ctx context.Context, sha256 string, length int64, source io.Reader) (created bool, err error) {
	path, err := b.path(sha256)
	if err != nil {
		return false, err
	}
	switch {
	case length < 1:
		return false, fmt.Errorf("artifact %s: %w: it is empty", sha256, trust.ErrLength)
	case length > b.max:
		return false, fmt.Errorf("artifact %s: %w: %d bytes, at most %d", sha256, ErrTooLarge, length, b.max)
	}
	checked := trust.NewReader(contextReader{ctx, source}, length, sha256)
	if _, err := b.Size(sha256); err == nil {
		// The sender's bytes are checked all the same: it is to hear of its
		// own damage.
		if _, err := io.Copy(io.Discard, checked); err != nil {
			return false, fmt.Errorf("artifact %s: %w", sha256, err)
		}
		return false, nil
	}
	if err := b.write(path, checked); err != nil {
		return false, fmt.Errorf("artifact %s: %w", sha256, err)
	}
	return true, nil
}

func (b *Blobs) write(path string, source io.Reader) (err error) {
	f, err := os.CreateTemp(b.incoming(), filepath.Base(path)[:16]+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()           // closed already when the rename failed
			_ = os.Remove(f.Name()) // OpenBlobs clears what stays
		}
	}()
	if _, err = io.Copy(f, source); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return syncDir(b.dir)
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

// Open opens an artifact for reading. ErrNoArtifact when it is not there.
func (b *Blobs) Open(sha256 string) (*os.File, error) {
	path, err := b.path(sha256)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoArtifact, sha256)
	}
	if err != nil {
		return nil, fmt.Errorf("open artifact: %w", err)
	}
	return f, nil
}

// Size is the length of an artifact in bytes. ErrNoArtifact when it is not
// there.
func (b *Blobs) Size(sha256 string) (int64, error) {
	path, err := b.path(sha256)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: %s", ErrNoArtifact, sha256)
	}
	if err != nil {
		return 0, fmt.Errorf("stat artifact: %w", err)
	}
	return info.Size(), nil
}

// contextReader ends an upload when its request ends.
type contextReader struct {
	ctx    context.Context
	source io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.source.Read(p)
}

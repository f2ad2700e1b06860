package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"

	"groundswell/certs/trust"
	"groundswell/fleetd/artifact/bucket"
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

// Blobs are artifacts named by their SHA-256, in a bucket. It is safe for concurrent
// use, also by several processes.
type Blobs struct {
	bucket *bucket.Bucket
	max    int64
}

// OpenBlobs makes the directory if it is not there and clears away what uploads left
// behind that a crash cut off. max bounds one artifact in bytes.
func OpenBlobs(dir string, max int64) (*Blobs, error) {
	b, err := bucket.OpenDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	return &Blobs{b, max}, nil
}

// OpenBlobsURL is OpenBlobs for a bucket of an S3-compatible store, which must exist.
func OpenBlobsURL(ctx context.Context, location string, max int64) (*Blobs, error) {
	b, err := bucket.OpenURL(ctx, location)
	if err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	return &Blobs{b, max}, nil
}

// CheckBlobsURL says what is wrong with a URL, without asking anybody.
func CheckBlobsURL(location string) error { return bucket.Check(location) }

// Ready says what is missing to read from the bucket.
func (b *Blobs) Ready(ctx context.Context) error { return b.bucket.Ready(ctx) }

// Close lets go of the bucket.
func (b *Blobs) Close() error { return b.bucket.Close() }

// path is where an artifact lies in the bucket. Two letters of its name make the
// directory, so that none grows too large to list.
func path(sha256 string) (string, error) {
	if topics.CheckDigest("", sha256) != nil {
		return "", fmt.Errorf("%w: %.80q", ErrName, sha256)
	}
	return sha256[:2] + "/" + sha256, nil
}

// Put stores the bytes of source under their digest and returns false when
// they were there already. Nothing is stored unless length and digest are
// right: trust.ErrLength, trust.ErrDigest. More than the limit is ErrTooLarge,
// before anything is read.
func (b *Blobs) Put(ctx context.Context, sha256 string, length int64, source io.Reader) (created bool, err error) {
	name, err := path(sha256)
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
	switch _, err := b.Size(ctx, sha256); {
	case err == nil:
		// The sender's bytes are checked all the same: it is to hear of its
		// own damage.
		if _, err := io.Copy(io.Discard, checked); err != nil {
			return false, fmt.Errorf("artifact %s: %w", sha256, err)
		}
		return false, nil
	case !errors.Is(err, ErrNoArtifact):
		return false, err
	}
	if err := b.bucket.Put(ctx, name, length, checked); err != nil {
		return false, fmt.Errorf("artifact %s: %w", sha256, err)
	}
	return true, nil
}

// Open opens an artifact for reading, until ctx ends. ErrNoArtifact when it is not
// there.
func (b *Blobs) Open(ctx context.Context, sha256 string) (*Reader, error) {
	size, err := b.Size(ctx, sha256)
	if err != nil {
		return nil, err
	}
	name, err := path(sha256)
	if err != nil {
		return nil, err
	}
	return &Reader{ctx: ctx, bucket: b.bucket, name: name, size: size}, nil
}

// Size is the length of an artifact in bytes. ErrNoArtifact when it is not
// there.
func (b *Blobs) Size(ctx context.Context, sha256 string) (int64, error) {
	name, err := path(sha256)
	if err != nil {
		return 0, err
	}
	size, err := b.bucket.Size(ctx, name)
	if errors.Is(err, bucket.ErrNotFound) {
		return 0, fmt.Errorf("%w: %s", ErrNoArtifact, sha256)
	}
	if err != nil {
		return 0, fmt.Errorf("look for artifact %s: %w", sha256, err)
	}
	return size, nil
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

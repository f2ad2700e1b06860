// Package bucket keeps named bytes in a directory or in an S3-compatible store. It
// is the only package that knows gocloud.dev and the S3 client behind it.
//
// What is written has its name only when Put has all of it: one that fails, or whose
// process dies, leaves nothing under the name. What a dead
// process leaves elsewhere (a temporary file, parts of an upload) is cleared away by
// an Open two days later.
//
// A directory is synced, the file and the directories that name it, before Put
// returns. An S3 store answers for that itself.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

// ErrNotFound: nothing has that name. It is fs.ErrNotExist.
var ErrNotFound = fs.ErrNotExist

// answer is how long a store may take to begin an answer.
const answer = 20 * time.Second

// abandoned is when a partial upload cannot be anybody's any more.
const abandoned = 48 * time.Hour

// Bucket is safe for concurrent use, also by several processes.
type Bucket struct {
	bucket *blob.Bucket
	dir    string // of files; "" for a store
}

// Check says what is wrong with the URL of a store, as far as that can be told
// without asking anybody.
func Check(location string) error {
	u, err := url.Parse(location)
	switch {
	case err != nil || u.Scheme != "s3" || u.Host == "":
		return fmt.Errorf("%q is not of the form s3://bucket?region=name", location)
	case u.User != nil:
		return errors.New("a URL is no place for credentials")
	case strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("the path %q has no meaning: say prefix=a/folder/", u.Path)
	}
	prefix := u.Query().Get("prefix")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return fmt.Errorf("prefix: %q does not end in /", prefix)
	}
	if endpoint := u.Query().Get("endpoint"); endpoint != "" {
		if e, err := url.Parse(endpoint); err != nil || e.Host == "" || e.Scheme != "https" && e.Scheme != "http" {
			return fmt.Errorf("endpoint: %q is not of the form https://host:port", endpoint)
		}
	}
	return nil
}

// OpenURL opens the bucket at an s3:// URL. It must exist; whether it does shows
// with Ready.
func OpenURL(ctx context.Context, location string) (*Bucket, error) {
	if err := Check(location); err != nil {
		return nil, err
	}
	b, err := blob.OpenBucket(ctx, location)
	if err != nil {
		return nil, err
	}
	u, _ := url.Parse(location) // Check did
	clearUploads(ctx, b, u.Host, u.Query().Get("prefix"))
	return &Bucket{bucket: b}, nil
}

// Ready says what is missing to read from the bucket.
func (b *Bucket) Ready(ctx context.Context) error {
	if b.dir != "" {
		return checkDir(b.dir)
	}
	there, err := b.bucket.IsAccessible(ctx)
	if err == nil && !there {
		err = errors.New("there is no such bucket")
	}
	return err
}

// Close lets go of what Open took.
func (b *Bucket) Close() error { return b.bucket.Close() }

// Size is the length in bytes of what has the name. ErrNotFound when nothing has.
func (b *Bucket) Size(ctx context.Context, name string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	attributes, err := b.bucket.Attributes(ctx, name)
	if err != nil {
		return 0, translated(err)
	}
	return attributes.Size, nil
}

// Range reads length bytes from offset on. ErrNotFound when nothing has the name. It
// ends with ctx.
func (b *Bucket) Range(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(answer, cancel)
	r, err := b.bucket.NewRangeReader(ctx, name, offset, length, nil)
	if !late.Stop() && err == nil {
		_ = r.Close() // it is worth nothing: its context has ended
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, translated(err)
	}
	return reading{r, cancel}, nil
}

type reading struct {
	*blob.Reader
	cancel context.CancelFunc
}

func (r reading) Close() error {
	r.cancel() // first, or the rest of an answer may be awaited
	return r.Reader.Close()
}

// Parts of an upload to a store: this many bytes each, or more where there would be
// too many; so many of them are in memory at once.
const (
	partSize = 8 << 20
	maxParts = 9_000 // S3 allows 10,000
	inFlight = 2
)

// Put gives the name to what source reads, when it has been read to its end without an
// error, which Put returns as it is. length is how much that will be, in bytes. When
// Put returns nil, it is there to stay; otherwise nothing is there that was not before.
func (b *Bucket) Put(ctx context.Context, name string, length int64, source io.Reader) error {
	options := &blob.WriterOptions{
		ContentType: "application/octet-stream", DisableContentTypeDetection: true,
		BufferSize: int(max(partSize, length/maxParts)), MaxConcurrency: inFlight,
	}
	read := &failing{Reader: source}
	var err error
	if b.dir != "" {
		err = b.putFile(ctx, name, read, options)
	} else {
		err = b.putObject(ctx, name, read, options)
	}
	if read.err != nil {
		return read.err
	}
	return translated(err)
}

// failing remembers why reading failed.
type failing struct {
	io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

func translated(err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%w: %v", ErrNotFound, err)
	}
	return err
}

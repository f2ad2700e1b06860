package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"

	"groundswell/fleetd/artifact/bucket"
)

// Reader reads a stored artifact from any place on. The bucket is asked at the first
// Read, so that a Seek costs nothing.
type Reader struct {
	ctx    context.Context
	bucket *bucket.Bucket
	name   string
	size   int64
	at     int64 // where the next Read reads
	until  int64 // where the reader expects to stop; 0: at the end

	open io.ReadCloser // nil: not asked yet
	left int64         // in open
}

// Size is the artifact's length in bytes.
func (r *Reader) Size() int64 { return r.size }

// Expect says that nothing from byte end on will be read, so that a store need not
// begin to send it. It is no limit: whoever reads on gets on.
func (r *Reader) Expect(end int64) { r.until = min(end, r.size) }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if r.left == 0 {
		if err := r.ask(); err != nil {
			return 0, err
		}
	}
	n, err := r.open.Read(p[:min(int64(len(p)), r.left)])
	r.at, r.left = r.at+int64(n), r.left-int64(n)
	if r.left == 0 {
		return n, nil
	}
	if err == io.EOF {
		err = fmt.Errorf("artifact ends at byte %d of %d: %w", r.at, r.size, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (r *Reader) ask() error {
	if err := r.Close(); err != nil {
		return err
	}
	end := r.size
	if r.at < r.until {
		end = r.until
	}
	open, err := r.bucket.Range(r.ctx, r.name, r.at, end-r.at)
	if err != nil {
		return fmt.Errorf("read artifact: %w", err)
	}
	r.open, r.left = open, end-r.at
	return nil
}

// Seek implements io.Seeker.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning of an artifact")
	}
	if offset != r.at {
		r.at, r.left = offset, 0
	}
	return offset, nil
}

// Close lets go of what the bucket still sends.
func (r *Reader) Close() error {
	if r.open == nil {
		return nil
	}
	open := r.open
	r.open, r.left = nil, 0
	return open.Close()
}

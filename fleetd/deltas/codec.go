package deltas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"groundswell/internal/delta"
)

// ErrWrong: a delta was made that does not make what it should.
var ErrWrong = errors.New("the delta makes something else")

// Encode makes new from old, into w: delta.Encode.
type Encode func(ctx context.Context, w io.Writer, old, new []byte, o delta.Options) error

// coderOf is internal/delta's of a name.
func coderOf(name string) (delta.Coder, error) {
	for _, c := range []delta.Coder{delta.Mixed, delta.Zstd} {
		if c.String() == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("there is no coder %q", name)
}

// prove is ErrWrong unless made makes new from old, segment by segment, as a device does
// it.
func prove(ctx context.Context, made, old, new []byte) error {
	head, err := delta.ReadHead(bytes.NewReader(made))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrong, err)
	}
	decoder, err := delta.NewDecoder(head, bytes.NewReader(old))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrong, err)
	}
	var out []byte
	end := int64(0)
	for i, s := range head.Segments {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.Start != end || s.Offset+s.Length > int64(len(made)) || s.Start+s.Size > int64(len(new)) {
			return fmt.Errorf("%w: segment %d lies elsewhere", ErrWrong, i)
		}
		end += s.Size
		if out, err = decoder.Segment(out[:0], i, made[s.Offset:s.Offset+s.Length]); err != nil {
			return fmt.Errorf("%w: segment %d: %w", ErrWrong, i, err)
		}
		if !bytes.Equal(out, new[s.Start:end]) {
			return fmt.Errorf("%w: in segment %d", ErrWrong, i)
		}
	}
	if end != int64(len(new)) {
		return fmt.Errorf("%w: %d bytes of %d", ErrWrong, end, len(new))
	}
	return nil
}

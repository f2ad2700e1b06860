package deltas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
	"groundswell/internal/expand/find"
)

// margin is how much of the plain delta one may have that looks through compression, in
// per cent. It costs a device time and room to make streams again.
const margin = 90

// Expand makes new from old, into w, by a delta that looks through compression. It is
// find.ErrNothing or delta.ErrMemory where none can be made.
type Expand func(ctx context.Context, w io.Writer, old, new []byte, o find.Options) error

// lookThrough makes a delta that looks through compression, and proves it. It leaves out
// empty where there is nothing to look through, where that would take more memory than the
// child may have, where it would take devices too much work, and where the delta is not much
// smaller than the plain one, which has so many bytes.
func lookThrough(ctx context.Context, encode Expand, out *os.File, old, target []byte, plain int64, o find.Options) error {
	var made bytes.Buffer
	err := encode(ctx, &made, old, target, o)
	if errors.Is(err, find.ErrNothing) || errors.Is(err, delta.ErrMemory) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look through compression: %w", err)
	}
	if int64(made.Len()) > plain/100*margin+plain%100*margin/100 {
		return nil
	}
	err = proveExpanded(ctx, made.Bytes(), old, target)
	if errors.Is(err, expand.ErrWork) { // no device is to do that
		return nil
	}
	if err != nil {
		return fmt.Errorf("look through compression: %w", err)
	}
	_, err = out.Write(made.Bytes())
	return err
}

// proveExpanded is ErrWrong unless made makes new from old, unit by unit, as a device does
// it.
func proveExpanded(ctx context.Context, made, old, new []byte) error {
	head, err := expand.ReadHead(made)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrong, err)
	}
	scratch := &expand.Memory{}
	decoder, err := expand.NewDecoder(head, bytes.NewReader(old), scratch)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrong, err)
	}
	var out bytes.Buffer
	for i, u := range head.Units {
		if err := ctx.Err(); err != nil {
			return err
		}
		out.Reset()
		err := decoder.Unit(i, bytes.NewReader(made), &out)
		if errors.Is(err, expand.ErrWork) {
			return err
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrWrong, err)
		}
		if u.Start+u.Size > int64(len(new)) || !bytes.Equal(out.Bytes(), new[u.Start:u.Start+u.Size]) {
			return fmt.Errorf("%w: in unit %d", ErrWrong, i)
		}
	}
	if head.NewLength != int64(len(new)) {
		return fmt.Errorf("%w: %d bytes of %d", ErrWrong, head.NewLength, len(new))
	}
	return nil
}

package delta

import (
	"bytes"
	"fmt"
)

// Patch is the new image of length bytes that a delta makes of an old one, all of them in
// memory: for small ones. A delta of other lengths is refused before anything is decoded.
// It fails with one of this package's errors.
func Patch(made, old []byte, length int64) ([]byte, error) {
	head, err := ReadHead(bytes.NewReader(made))
	if err != nil {
		return nil, err
	}
	if head.OldLength != int64(len(old)) || head.NewLength != length {
		return nil, fmt.Errorf("%w: it makes %d bytes of %d, and not %d of %d", ErrCorrupt, head.NewLength, head.OldLength, length, len(old))
	}
	d, err := NewDecoder(head, bytes.NewReader(old))
	if err != nil {
		return nil, err
	}
	var new []byte
	rest := made[head.Length:]
	for i, s := range head.Segments {
		n := min(s.Length, int64(len(rest)))
		if new, err = d.Segment(new, i, rest[:n]); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind it", ErrTooLarge, len(rest))
	}
	return new, nil
}

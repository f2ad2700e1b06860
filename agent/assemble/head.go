package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"groundswell/agent/fetch"
	"groundswell/internal/delta"
)

// headGuess is how much of a delta is fetched to learn how long its head is.
const headGuess = 4 << 10

// head gives accept the head of a delta, from the shelf or from the first source whose head is
// accepted: at most so many bytes. It returns the head's digest. length says how long it is by
// how it begins. What has come of the units behind it is not fetched again (early).
func (r *run) head(ctx context.Context, o fetch.Object, most int64, length func([]byte) (int64, error), accept func([]byte) error) (digest string, err error) {
	try := func(raw []byte, n int64, by string) error {
		if digest = digestOf(raw[:n]); r.refused[digest] {
			return fmt.Errorf("%w: a head that was of no use", errHead)
		}
		if err := accept(raw[:n]); err != nil {
			return err
		}
		if r.unfinished != o.Tag { // of which a later part is there
			r.early[o.Tag] = early{n, raw[n:], by}
		}
		return nil
	}
	if raw := r.shelf.checked(r.shelf.headPath(o), most+headGuess); raw != nil {
		if n, err := length(raw); err == nil && n <= int64(len(raw)) {
			if err := try(raw, n, several); !refusal(err) {
				return digest, err
			}
		}
		r.shelf.forgetHead(o)
	}
	var failures []error
	for _, base := range r.Client.Sources() {
		raw, n, err := r.headFrom(ctx, base, o, length)
		if err == nil {
			if err = try(raw, n, base); !refusal(err) {
				r.shelf.writeChecked(r.shelf.headPath(o), raw)
				return digest, err
			}
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		failures = append(failures, err)
	}
	return "", passing(failures)
}

// refusal is whether it is the head that was not accepted, and not something of the device.
func refusal(err error) bool { return err != nil && lasting(err) && !errors.Is(err, errRoom) }

// passing are those of the failures of all sources that may pass, or all where none does.
func passing(failures []error) error {
	if len(failures) == 0 {
		return fetch.ErrNoSource
	}
	var may []error
	for _, err := range failures {
		if !lasting(err) {
			may = append(may, err)
		}
	}
	if len(may) > 0 {
		return errors.Join(may...)
	}
	return errors.Join(failures...)
}

// headFrom is the head of a delta as one source has it, which has n bytes, and what came
// behind it.
func (r *run) headFrom(ctx context.Context, base string, o fetch.Object, length func([]byte) (int64, error)) (raw []byte, n int64, err error) {
	raw, err = r.part(ctx, base, o, 0, min(o.Length, headGuess))
	if err != nil {
		return nil, 0, err
	}
	n, err = length(raw)
	if err == nil && n > o.Length {
		err = fmt.Errorf("%w: its head has %d bytes of %d", delta.ErrTruncated, n, o.Length)
	}
	if err != nil {
		return nil, 0, err
	}
	if n > int64(len(raw)) {
		rest, err := r.part(ctx, base, o, int64(len(raw)), n)
		if err != nil {
			return nil, 0, err
		}
		raw = append(raw, rest...)
	}
	return raw, n, nil
}

// part fetches the bytes [from, to) of a delta from a source.
func (r *run) part(ctx context.Context, base string, o fetch.Object, from, to int64) ([]byte, error) {
	body, err := r.Client.Range(ctx, base, o, from, to)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var raw bytes.Buffer // it grows with what arrives
	_, err = io.CopyN(&raw, body, to-from)
	r.transfer.Delta += int64(raw.Len())
	return raw.Bytes(), err
}

// refuse has what a way was opened by, which nobody has signed, not believed any more. It
// reports whether another source may have something else.
func (r *run) refuse(k kind) bool {
	if r.by[k] == "" || len(r.Client.Sources()) < 2 || r.refusals[k] == maxStrikes {
		return false
	}
	r.refused[r.by[k]] = true
	r.refusals[k]++
	return true
}

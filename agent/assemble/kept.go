package assemble

import (
	"fmt"
	"io"
	"os"

	"groundswell/internal/expand"
)

// kept are the bytes of units, so that none is fetched again after an interruption to make
// the units behind it. The file has holes where there are none; what is in it is believed
// by its checksum.
type kept struct {
	f     *os.File
	head  *expand.Head
	there map[int]bool // what was looked at
}

func openKept(path string, h *expand.Head) (*kept, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &kept{f: f, head: h, there: map[int]bool{}}, nil
}

func (k *kept) has(n int) bool {
	there, known := k.there[n]
	if !known {
		there = k.head.Units[n].Check(k.f) == nil
		k.there[n] = there
	}
	return there
}

// keep keeps units that others behind them may need; data are the delta's bytes from the place
// from on.
func (k *kept) keep(first, last int, data []byte, from int64) error {
	wrote := false
	for n := first; n <= last; n++ {
		if n+1 == len(k.head.Units) || k.head.Since(n+1) > n {
			continue
		}
		u := k.head.Units[n]
		if _, err := k.f.WriteAt(data[u.Offset-from:u.Offset-from+u.Length], u.Offset); err != nil {
			return fmt.Errorf("keep unit %d: %w", n, err)
		}
		k.there[n], wrote = true, true
	}
	if !wrote {
		return nil
	}
	if err := k.f.Sync(); err != nil {
		clear(k.there)
		return fmt.Errorf("keep units to %d: %w", last, err)
	}
	return nil
}

// withKept is a delta of which there are bytes from a place on, and before it what was kept.
// Nothing may be read over that place, where a unit begins.
type withKept struct {
	kept io.ReaderAt
	data []byte
	from int64
}

func (w withKept) ReadAt(p []byte, at int64) (int, error) {
	if at < w.from {
		return w.kept.ReadAt(p, at)
	}
	n := 0
	if at-w.from < int64(len(w.data)) {
		n = copy(p, w.data[at-w.from:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

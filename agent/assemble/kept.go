package assemble

import (
	"errors"
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
	raw   []byte
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
		_, err := k.read(n)
		there = err == nil
		k.there[n] = there
	}
	return there
}

// read is a unit's bytes, until the next call.
func (k *kept) read(n int) ([]byte, error) {
	u := k.head.Units[n]
	if int64(cap(k.raw)) < u.Length {
		k.raw = make([]byte, u.Length)
	}
	k.raw = k.raw[:u.Length]
	if _, err := k.f.ReadAt(k.raw, u.Offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read what was kept of unit %d: %w", n, err)
	}
	return k.raw, u.Check(k.raw)
}

// keep keeps units that others behind them may need.
func (k *kept) keep(first, last int, data func(int) []byte) error {
	wrote := false
	for n := first; n <= last; n++ {
		if n+1 == len(k.head.Units) || k.head.Since(n+1) > n {
			continue
		}
		if _, err := k.f.WriteAt(data(n), k.head.Units[n].Offset); err != nil {
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

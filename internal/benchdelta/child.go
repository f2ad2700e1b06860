package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
	"groundswell/internal/expand/find"
)

// child does what is measured in a process of its own, so that its memory and its
// time are its own: encode CODER OLD NEW DELTA, or decode OLD DELTA NEW.
func child(ctx context.Context, args []string) error {
	switch {
	case len(args) == 5 && args[0] == "encode":
		return encode(ctx, args[1], args[2], args[3], args[4])
	case len(args) == 4 && args[0] == "decode":
		return decode(args[1], args[2], args[3])
	}
	return errors.New("usage: benchdelta encode zstd|mixed|expanded OLD NEW DELTA, or decode OLD DELTA NEW")
}

// encodeMemory is what encoding may take besides the images, in bytes: as fleetd bounds it, but
// so that all together is less than 2 GB.
const encodeMemory = 1_800_000_000

func encode(ctx context.Context, name, oldPath, newPath, deltaPath string) error {
	coder := delta.Zstd
	if name != delta.Zstd.String() {
		coder = delta.Mixed
	}
	before, err := mapped(oldPath)
	if err != nil {
		return err
	}
	after, err := mapped(newPath)
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(encodeMemory)
	var out bytes.Buffer
	if name == lookThrough {
		err = find.Encode(ctx, &out, before, after, find.Options{
			Ends: ends(int64(len(after))), Coder: coder, Workers: runtime.NumCPU(), Memory: encodeMemory,
			Expanded: func() {
				for _, image := range [][]byte{before, after} {
					_ = unix.Madvise(image, unix.MADV_DONTNEED) // it only counts less if that works
				}
			},
		})
	} else {
		err = delta.Encode(ctx, &out, before, after, delta.Options{Coder: coder, Memory: encodeMemory})
	}
	if err != nil && !errors.Is(err, find.ErrNothing) { // an empty delta says that
		return err
	}
	return os.WriteFile(deltaPath, out.Bytes(), 0o600)
}

// lookThrough is what the deltas of package expand are called here.
const lookThrough = "expanded"

// ends are those of units: each MiB, as delta.Encode cuts an image that nobody else cuts.
func ends(length int64) (list []int64) {
	for end := int64(1 << 20); end < length; end += 1 << 20 {
		list = append(list, end)
	}
	return append(list, length)
}

// mapped maps a file into memory: a page of it counts as resident once it is read.
func mapped(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return b, nil
}

// decodeMemory is what Go's heap may grow to before it is collected more often, as a
// device with little memory has it.
const decodeMemory = 10 << 20

// decode works as a device does: the old image is read at offsets, the delta and the
// new one go by in order.
func decode(oldPath, deltaPath, newPath string) error {
	debug.SetMemoryLimit(decodeMemory)
	before, err := os.Open(oldPath)
	if err != nil {
		return err
	}
	defer before.Close()
	in, err := os.Open(deltaPath)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(newPath)
	if err != nil {
		return err
	}
	defer out.Close()
	var magic [4]byte
	if _, err := in.ReadAt(magic[:], 0); err == nil && string(magic[:3]) == "gsx" {
		return errors.Join(decodeExpanded(before, in, out), out.Close())
	}
	head, err := delta.ReadHead(in)
	if err != nil {
		return err
	}
	d, err := delta.NewDecoder(head, before)
	if err != nil {
		return err
	}
	var data, made []byte
	for i, s := range head.Segments {
		if int64(cap(data)) < s.Length {
			data = make([]byte, s.Length)
		}
		data = data[:s.Length]
		if _, err := io.ReadFull(in, data); err != nil {
			return err
		}
		if made, err = d.Segment(made[:0], i, data); err != nil {
			return err
		}
		if _, err := out.Write(made); err != nil {
			return err
		}
	}
	return out.Close()
}

// decodeExpanded does the same by a delta that looks through compression. The scratch is a
// file beside the new image.
func decodeExpanded(before, in, out *os.File) error {
	begin := make([]byte, expand.HeadBegin)
	if _, err := in.ReadAt(begin, 0); err != nil {
		return err
	}
	n, err := expand.HeadLength(begin)
	if err != nil {
		return err
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(in, raw); err != nil {
		return err
	}
	head, err := expand.ReadHead(raw)
	if err != nil {
		return err
	}
	scratch, err := os.CreateTemp(filepath.Dir(out.Name()), "scratch-")
	if err != nil {
		return err
	}
	defer os.Remove(scratch.Name())
	defer scratch.Close()
	d, err := expand.NewDecoder(head, before, scratch)
	if err != nil {
		return err
	}
	longest := slices.MaxFunc(head.Units, func(a, b expand.Unit) int { return cmp.Compare(a.Length, b.Length) })
	data := make([]byte, longest.Length)
	for i, u := range head.Units {
		data = data[:u.Length]
		if _, err := io.ReadFull(in, data); err != nil {
			return err
		}
		made, err := d.Unit(i, func(int) ([]byte, error) { return data, nil })
		if err != nil {
			return err
		}
		if _, err := out.Write(made); err != nil {
			return err
		}
	}
	return nil
}

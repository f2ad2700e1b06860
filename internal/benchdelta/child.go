package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"groundswell/internal/delta"
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
	return errors.New("usage: benchdelta encode zstd|mixed OLD NEW DELTA, or decode OLD DELTA NEW")
}

func encode(ctx context.Context, name, oldPath, newPath, deltaPath string) error {
	coder := delta.Zstd
	if name == delta.Mixed.String() {
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
	var out bytes.Buffer
	if err := delta.Encode(ctx, &out, before, after, delta.Options{Coder: coder}); err != nil {
		return err
	}
	return os.WriteFile(deltaPath, out.Bytes(), 0o600)
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

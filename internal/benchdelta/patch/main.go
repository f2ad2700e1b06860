// Patch makes a new image of an old one and a delta, as a device does it: the old image is
// read at offsets, the delta and the new one go by in order. It is a program of its own, as
// bspatch is, so that what is measured is what decoding takes.
//
//	patch OLD DELTA NEW
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: patch OLD DELTA NEW")
		os.Exit(2)
	}
	if err := decode(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintf(os.Stderr, "patch: %v\n", err)
		os.Exit(1)
	}
}

// decodeMemory is what Go's heap may grow to before it is collected more often, as a
// device with little memory has it.
const decodeMemory = 10 << 20

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
	for i := range head.Units {
		if err := d.Unit(i, in, out); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"groundswell/internal/delta"
	"groundswell/internal/expand/find"
)

// child encodes in a process of its own, so that its memory and its time are its own:
// encode CODER OLD NEW DELTA; or says how long the block index is: index OLD NEW. Program
// patch decodes.
func child(ctx context.Context, args []string) error {
	switch {
	case len(args) == 5 && args[0] == "encode":
		return encode(ctx, args[1], args[2], args[3], args[4])
	case len(args) == 3 && args[0] == "index":
		return printIndex(ctx, args[1], args[2])
	}
	return errors.New("usage: benchdelta encode zstd|mixed|expanded OLD NEW DELTA, or index OLD NEW")
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

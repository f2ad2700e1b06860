package main

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"groundswell/internal/block"
	"groundswell/internal/delta"
)

// printIndex prints how long the new image's block index is, which a device fetches beside a
// delta of ours, and the delta that makes it of the old one's.
func printIndex(ctx context.Context, oldPath, newPath string) error {
	before, err := indexOf(ctx, oldPath)
	if err != nil {
		return err
	}
	after, err := indexOf(ctx, newPath)
	if err != nil {
		return err
	}
	var made bytes.Buffer
	if err := delta.Encode(ctx, &made, before, after, delta.Options{Coder: delta.Zstd, Workers: 1}); err != nil {
		return err
	}
	fmt.Printf("Block index: %d bytes; by a delta from the old one's: %d.\n", len(after), made.Len())
	return nil
}

func indexOf(ctx context.Context, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := length(path)
	if err != nil {
		return nil, err
	}
	x, err := block.Make(ctx, f, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return x.Bytes(), nil
}

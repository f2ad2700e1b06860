package assemble

import (
	"context"
	"fmt"

	"groundswell/agent/fetch"
	"groundswell/internal/block"
)

// seed is what the device runs, as a source of blocks. A nil seed has none.
type seed struct {
	fetch.Seed
	data   fetch.ReadAtCloser
	blocks map[[32]byte]int64 // offsets of the index's blocks
}

// openSeed cuts what the device runs the way the index was cut, and notes which of its
// blocks are there.
func openSeed(ctx context.Context, own *running, index block.Index) (*seed, error) {
	if own.Seed == nil {
		return nil, nil
	}
	have, err := own.cut(ctx, index.Normal)
	if err != nil {
		return nil, err
	}
	own.index = nil // it is not needed any more
	data, err := own.Open()
	if err != nil {
		return nil, fmt.Errorf("open what runs: %w", err)
	}
	wanted := make(map[[32]byte]bool, len(index.Blocks))
	for _, b := range index.Blocks {
		wanted[b.SHA256] = true
	}
	out := &seed{Seed: *own.Seed, data: data, blocks: map[[32]byte]int64{}}
	for _, b := range have.Blocks {
		if wanted[b.SHA256] {
			out.blocks[b.SHA256] = b.Offset
		}
	}
	return out, nil
}

func (s *seed) close() {
	if s != nil {
		_ = s.data.Close() // it was only read
	}
}

func (s *seed) has(b block.Block) bool {
	if s == nil {
		return false
	}
	_, ok := s.blocks[b.SHA256]
	return ok
}

// read reads a block that is there. Whatever runs may write to where it lies: what is
// not the block any more is forgotten, and false.
func (s *seed) read(b block.Block, buffer []byte) bool {
	if _, err := s.data.ReadAt(buffer[:b.Length], s.blocks[b.SHA256]); err == nil && b.Check(buffer[:b.Length]) == nil {
		return true
	}
	delete(s.blocks, b.SHA256)
	return false
}

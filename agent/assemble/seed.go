package assemble

import (
	"context"
	"errors"
	"fmt"
	"io"

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
// blocks are there. It is all read once, which costs no bytes on the radio.
func openSeed(ctx context.Context, s *fetch.Seed, index block.Index) (*seed, error) {
	if s == nil {
		return nil, nil
	}
	data, err := s.Open()
	if err != nil {
		return nil, fmt.Errorf("open what runs: %w", err)
	}
	wanted := make(map[[32]byte]bool, len(index.Blocks))
	for _, b := range index.Blocks {
		wanted[b.SHA256] = true
	}
	out := &seed{Seed: *s, data: data, blocks: map[[32]byte]int64{}}
	err = block.Cut(ctx, io.NewSectionReader(data, 0, s.Length), index.Normal, func(b block.Block, _ []byte) error {
		if wanted[b.SHA256] {
			out.blocks[b.SHA256] = b.Offset
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read what runs: %w", err), data.Close())
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

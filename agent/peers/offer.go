package peers

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"groundswell/internal/block"
)

// maxOffers is of how many artifacts a device gives blocks.
const maxOffers = 8

// offer is an artifact of which the device has the first blocks. Site.mu guards it.
type offer struct {
	artifact string
	length   int64
	path     string // of the file that it is made in; "": it runs or is staged
	blocks   []block.Block
	numbers  map[[32]byte]int // of the first block with that digest
	have     int
	making   bool // more are to come
	fetching int  // blocks below this are being fetched from the origin; 0: none
	changed  chan struct{}
}

func newOffer(artifact string, length int64) *offer {
	return &offer{artifact: artifact, length: length, making: true, changed: make(chan struct{})}
}

// know sets the blocks.
func (o *offer) know(blocks []block.Block) {
	o.blocks, o.numbers = blocks, make(map[[32]byte]int, len(blocks))
	for i, b := range slices.Backward(blocks) {
		o.numbers[b.SHA256] = i
	}
}

// tell wakes those who wait for more.
func (o *offer) tell() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// put adds an offer in place of one of the same artifact, or else of the oldest that is
// complete. The caller holds mu.
func (s *Site) put(o *offer) {
	s.offers = slices.DeleteFunc(s.offers, func(old *offer) bool {
		if old.artifact == o.artifact {
			old.making, old.fetching = false, 0
			old.tell()
			return true
		}
		return false
	})
	if len(s.offers) >= maxOffers {
		oldest := max(0, slices.IndexFunc(s.offers, func(old *offer) bool { return !old.making }))
		s.offers = slices.Delete(s.offers, oldest, oldest+1)
	}
	s.offers = append(s.offers, o)
}

// find is what the device has of an artifact; nil: nothing. The blocks of what it runs
// are found out when they are asked for first.
func (s *Site) find(artifact string) *offer {
	s.mu.Lock()
	i := slices.IndexFunc(s.offers, func(o *offer) bool { return o.artifact == artifact })
	if i >= 0 {
		defer s.mu.Unlock()
		return s.offers[i]
	}
	s.mu.Unlock()
	contents, ok := s.contents(artifact)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.offers, func(o *offer) bool { return o.artifact == artifact }); i >= 0 {
		return s.offers[i]
	}
	o := newOffer(artifact, contents.Length)
	select {
	case s.cuts <- o:
		o.fetching = unknown
		s.put(o)
		return o
	default:
		return nil // later
	}
}

// unknown is fetching where it is not known yet how many blocks there are.
const unknown = 1 << 30

func (s *Site) contents(artifact string) (Contents, bool) {
	if s.opt.Contents == nil {
		return Contents{}, false
	}
	return s.opt.Contents(artifact)
}

// cut finds out the blocks of what runs, until ctx ends: what is cut the same way has the
// same blocks.
func (s *Site) cut(ctx context.Context) {
	for {
		var o *offer
		select {
		case <-ctx.Done():
			return
		case o = <-s.cuts:
		}
		var blocks []block.Block
		data, err := s.open(o)
		if err == nil {
			err = block.Cut(ctx, io.NewSectionReader(data, 0, o.length), block.Normal(o.length), func(b block.Block, _ []byte) error {
				blocks = append(blocks, b)
				return nil
			})
			err = errors.Join(err, data.Close())
		}
		s.mu.Lock()
		if err != nil {
			s.opt.Log.Warn("what runs cannot be given to others", "artifact", o.artifact, "err", err)
			blocks = nil
		}
		o.know(blocks)
		o.have, o.making, o.fetching = len(blocks), false, 0
		o.tell()
		s.mu.Unlock()
	}
}

// open opens what an offer's blocks are read from.
func (s *Site) open(o *offer) (ReadAtCloser, error) {
	if o.path != "" {
		f, err := os.Open(o.path)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
	}
	// What was downloaded has become what is staged, or runs.
	contents, ok := s.contents(o.artifact)
	if !ok {
		return nil, os.ErrNotExist
	}
	return contents.Open()
}

// read reads a block. It is checked: whatever runs may have changed it, and who gave it
// to another would never be asked again.
func (s *Site) read(o *offer, b block.Block) ([]byte, error) {
	data, err := s.open(o)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	buffer := make([]byte, b.Length)
	if _, err := data.ReadAt(buffer, b.Offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buffer, b.Check(buffer)
}

// holding is which offers have a block with that digest, and which of theirs it is.
func (s *Site) holding(digest [32]byte) (offers []*offer, blocks []block.Block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range slices.Backward(s.offers) {
		if n, ok := o.numbers[digest]; ok && n < o.have {
			offers, blocks = append(offers, o), append(blocks, o.blocks[n])
		}
	}
	return offers, blocks
}

// gone forgets that an offer has anything.
func (s *Site) gone(o *offer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !o.making {
		s.offers = slices.DeleteFunc(s.offers, func(old *offer) bool { return old == o })
	}
}

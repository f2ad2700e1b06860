package peers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"groundswell/internal/block"
)

// maxOffers is of how many artifacts a device gives blocks.
const maxOffers = 8

// offer is an artifact of which the device has the first blocks. Site.mu guards it.
type offer struct {
	artifact string
	length   int64
	path     string // of the file that it is made in; "": it runs or is staged
	blocks
	have     int
	sound    int       // blocks from this one on were not what they should be when they were read
	making   bool      // more are to come
	fetching int       // blocks below this are being fetched from the origin; 0: none
	again    time.Time // what runs may be looked at again then, if something was lost
	changed  chan struct{}
}

func newOffer(artifact string, length int64) *offer {
	return &offer{artifact: artifact, length: length, sound: math.MaxInt, making: true, changed: make(chan struct{})}
}

// given is how many blocks are given.
func (o *offer) given() int { return min(o.have, o.sound) }

// state is what others are told. Where a block was not what it should be, nothing that is
// behind it comes.
func (o *offer) state() state {
	if o.sound <= o.have {
		return state{Have: o.sound}
	}
	return state{o.have, o.making, o.fetching}
}

// withdrawn reports whether there is nothing, and nothing to come.
func (o *offer) withdrawn() bool { return o.state() == state{} }

// lost reports whether something of it was not there when it was wanted, and nothing is to
// come.
func (o *offer) lost() bool { return o.withdrawn() || o.sound < o.have && !o.making }

// blocks are those of an artifact, and what they are found by. They stay as they are.
type blocks struct {
	index   block.Index
	digest  [32]byte         // of the index
	numbers map[[32]byte]int // of the first block with that digest
}

func blocksOf(x block.Index) blocks {
	b := blocks{x, sha256.Sum256(x.Bytes()), make(map[[32]byte]int, len(x.Blocks))}
	for i, one := range slices.Backward(x.Blocks) {
		b.numbers[one.SHA256] = i
	}
	return b
}

// tell wakes those who wait for more.
func (o *offer) tell() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// put adds an offer in place of one of the same artifact, or else of one that is withdrawn,
// or else of the oldest that is complete. The caller holds mu.
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
		oldest := slices.IndexFunc(s.offers, (*offer).withdrawn)
		if oldest < 0 {
			oldest = max(0, slices.IndexFunc(s.offers, func(old *offer) bool { return !old.making }))
		}
		s.offers = slices.Delete(s.offers, oldest, oldest+1)
	}
	s.offers = append(s.offers, o)
}

// find is what the device has of an artifact; nil: nothing, or with busy, that is not
// known yet. The blocks of what it runs are found out when they are asked for first.
func (s *Site) find(artifact string) (o *offer, busy bool) {
	known := func() *offer {
		i := slices.IndexFunc(s.offers, func(o *offer) bool { return o.artifact == artifact })
		if i < 0 {
			return nil
		}
		return s.offers[i]
	}
	final := func(o *offer) bool { return o != nil && !(o.lost() && time.Now().After(o.again)) }
	s.mu.Lock()
	o = known()
	done := final(o)
	s.mu.Unlock()
	if done {
		return o, false
	}
	contents, ok := s.contents(artifact)
	if !ok {
		return o, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o = known(); final(o) {
		return o, false
	}
	o = newOffer(artifact, contents.Length)
	select {
	case s.cuts <- o:
		s.put(o)
		return o, false
	default:
		return nil, true
	}
}

func (s *Site) contents(artifact string) (Contents, bool) {
	if s.opt.Contents == nil {
		return Contents{}, false
	}
	return s.opt.Contents(artifact)
}

// cut finds out the blocks of what runs, until ctx ends: what is cut the same way has the
// same blocks. They are given only if all of it is the artifact.
func (s *Site) cut(ctx context.Context) {
	for {
		var o *offer
		select {
		case <-ctx.Done():
			return
		case o = <-s.cuts:
		}
		index, err := s.indexOf(ctx, o)
		if ctx.Err() != nil {
			return
		}
		known := blocksOf(index)
		s.mu.Lock()
		if err != nil {
			s.opt.Log.Warn("what runs cannot be given to others", "artifact", o.artifact, "err", err)
			o.again = time.Now().Add(recut)
		}
		o.blocks = known
		o.have, o.making = len(index.Blocks), false
		o.tell()
		s.mu.Unlock()
		if err != nil {
			s.announce()
		}
	}
}

// recut is how long it is not looked again at what runs and is not the artifact.
const recut = 5 * time.Minute

// errChanged: what runs is not what was downloaded any more.
var errChanged = errors.New("it is not the artifact any more")

func (s *Site) indexOf(ctx context.Context, o *offer) (block.Index, error) {
	data, err := s.open(o)
	if err != nil {
		return block.Index{}, err
	}
	sum := sha256.New()
	index, err := block.Make(ctx, io.TeeReader(io.NewSectionReader(data, 0, o.length), sum), o.length)
	if err = errors.Join(err, data.Close()); err != nil {
		return block.Index{}, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != o.artifact {
		return block.Index{}, errChanged
	}
	return index, nil
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

// held is a block that an offer has.
type held struct {
	*offer
	number int
	block  block.Block
}

// holding is which offers have a block with that digest. said: one of them has it or has
// said so.
func (s *Site) holding(digest [32]byte) (list []held, said bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range slices.Backward(s.offers) {
		n, ok := o.numbers[digest]
		if ok && n < o.given() {
			list = append(list, held{o, n, o.index.Blocks[n]})
		}
		said = said || ok && n < o.have
	}
	return list, said
}

// withdraw takes back that there is a block, and those behind it: what is had is one
// number.
func (s *Site) withdraw(h held, err error) {
	s.mu.Lock()
	before := h.given()
	h.sound = min(h.sound, h.number)
	if !errors.Is(err, os.ErrNotExist) { // that may just have become what is staged
		h.again = time.Now().Add(recut)
	}
	after := h.given()
	h.tell()
	s.mu.Unlock()
	if after < before {
		s.opt.Log.Warn("what was given to others is not there any more", "artifact", h.artifact, "blocks", after, "of", before, "err", err)
		s.announce()
	}
}

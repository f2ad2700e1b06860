package assemble

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"syscall"

	"groundswell/agent/fetch"
	"groundswell/internal/block"
	"groundswell/internal/expand"
	"groundswell/topics"
)

// expanded are units of a delta that looks through compression.
type expanded struct {
	from     fetch.Object
	plain    *topics.Document // the plain delta; nil: there is none
	head     *expand.Head
	decoder  *expand.Decoder
	segments []segment
	kept     *kept
	scratch  *os.File
	made     bytes.Buffer // the unit at hand
}

// errRoom: there is too little room for what a way needs beside the artifact.
var errRoom = errors.New("too little room")

// spare is what must be left of a file system, in bytes.
const spare = 16 << 20

// newExpanded is the delta with that head, if it makes the artifact from what runs, and if
// there is room for what it needs beside the rest of the artifact: its own bytes, and the
// content of the large streams in what runs.
func (r *run) newExpanded(raw []byte, o fetch.Object, plain *topics.Document) (*expanded, error) {
	w := &expanded{from: o, plain: plain, segments: r.plan.segments}
	err := guarded(func() (err error) {
		w.head, err = expand.ReadHead(raw)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := w.matches(r.seed, r.file.index); err != nil {
		return nil, err
	}
	measure := r.Free
	if measure == nil {
		measure = free
	}
	have, err := measure(filepath.Dir(r.shelf.path))
	if err != nil {
		return nil, err
	}
	if need := w.head.Scratch() + o.Length + r.wanted.Length - r.file.have() + spare; have < need {
		return nil, fmt.Errorf("%w: %d bytes of %d", errRoom, have, need)
	}
	if w.scratch, err = nameless(r.shelf.path + ".scratch-*"); err != nil {
		return nil, err
	}
	if w.kept, err = openKept(r.shelf.unitsPath(o), w.head); err != nil {
		return nil, errors.Join(err, w.scratch.Close())
	}
	err = guarded(func() (err error) {
		w.decoder, err = expand.NewDecoder(w.head, r.seed.data, w.scratch)
		return err
	})
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *expanded) close() {
	// Nothing in them is needed by anybody who has not synchronised it.
	_ = w.scratch.Close()
	_ = w.kept.f.Close()
}

func (w *expanded) matches(s *seed, index block.Index) error {
	h := w.head
	if h.OldLength != s.Length || h.NewLength != index.Length || len(h.Units) != len(w.segments) {
		return fmt.Errorf("%w: %d bytes from %d in %d units", errHead, h.NewLength, h.OldLength, len(h.Units))
	}
	for i, u := range h.Units {
		last := index.Blocks[w.segments[i].end-1]
		if u.Start+u.Size != last.Offset+int64(last.Length) || u.Offset+u.Length > w.from.Length {
			return fmt.Errorf("%w: unit %d makes what is before %d, of %d bytes at %d", errHead, i, u.Start+u.Size, u.Length, u.Offset)
		}
	}
	return nil
}

func (w *expanded) object() fetch.Object { return w.from }

// unit is what block i is made by: with those before it that are needed and not kept.
func (w *expanded) unit(i int) unit {
	n := segmentAt(w.segments, i)
	if w.decoder.Follows(n) {
		return w.units(n, n, w.head.Units[n].Start)
	}
	first := w.head.Since(n)
	for first < n && w.kept.has(first) {
		first++
	}
	return w.units(first, n, w.begin(n))
}

// units are the units first to n, of which n makes something of what the image has from at on.
func (w *expanded) units(first, n int, at int64) unit {
	from, last := w.head.Units[first].Offset, w.head.Units[n]
	to := last.Offset + last.Length
	slow := slowly(w.head.Inner.Coder, to-from) + w.content(at, last.Start+last.Size)
	return unit{from, to, w.segments[n].first, w.segments[n].end, slow}
}

// whole is all of it.
func (w *expanded) whole() unit {
	slow := slowly(w.head.Inner.Coder, w.from.Length) + w.content(0, w.head.NewLength)
	return unit{0, w.from.Length, 0, len(w.segments), slow}
}

// streamAt is the first of the streams in the new image that end behind a place.
func (w *expanded) streamAt(at int64) int {
	return sort.Search(len(w.head.New), func(i int) bool { return w.head.New[i].At+w.head.New[i].Length > at })
}

// begin is where unit n is made from when it does not follow: where the stream begins that
// it begins in.
func (w *expanded) begin(n int) int64 {
	at := w.head.Units[n].Start
	if k := w.streamAt(at); k < len(w.head.New) {
		return min(at, w.head.New[k].At)
	}
	return at
}

// follows is whether nothing is made once more for u, as the unit before it was made last.
func (w *expanded) follows(u unit) bool { return w.decoder.Follows(segmentAt(w.segments, u.first)) }

// spread is u, which does not follow: what is made once more from the begin of a stream serves
// all units of the stream that limit bytes bring as well (0: the rest of it), so each bears its
// share.
func (w *expanded) spread(u unit, limit int64) unit {
	n := segmentAt(w.segments, u.first)
	first := w.head.Units[n]
	begin := w.begin(n)
	if begin == first.Start {
		return u
	}
	stream := w.head.New[w.streamAt(first.Start)]
	last := first
	for _, v := range w.head.Units[n+1:] {
		if v.Start >= stream.At+stream.Length || limit > 0 && v.Offset+v.Length-u.from > limit {
			break
		}
		last = v
	}
	own := min(first.Start+first.Size, stream.At+stream.Length) - first.Start
	all := min(last.Start+last.Size, stream.At+stream.Length) - first.Start
	again := w.content(begin, first.Start)
	u.slow -= again - int64(float64(again)*float64(own)/float64(all))
	return u
}

// content is about how many bytes stand for the streams in a range of the new image.
func (w *expanded) content(from, to int64) (n int64) {
	for k := w.streamAt(from); k < len(w.head.New) && w.head.New[k].At < to; k++ {
		s := w.head.New[k]
		part := min(to, s.At+s.Length) - max(from, s.At)
		n += int64(float64(s.Size) * float64(part) / float64(s.Length))
	}
	return n
}

// following is u when the one before it is fetched by the same request.
func (w *expanded) following(u unit) unit {
	n := segmentAt(w.segments, u.first)
	return w.units(n, n, w.head.Units[n].Start)
}

func (w *expanded) decode(u unit, data []byte) ([]byte, error) {
	n := segmentAt(w.segments, u.first)
	err := guarded(func() error {
		first := n
		for first > 0 && w.head.Units[first-1].Offset >= u.from {
			first--
		}
		delta := withKept{w.kept.f, data, u.from}
		for k := first; k <= n; k++ {
			if err := w.head.Units[k].Check(delta); err != nil {
				return err
			}
		}
		// Before anything is made of them: whoever goes on after a power cut needs them.
		if err := w.kept.keep(first, n, data, u.from); err != nil {
			return err
		}
		w.made.Reset()
		w.made.Grow(int(w.head.Units[n].Size))
		return w.decoder.Unit(n, delta, &w.made)
	})
	return w.made.Bytes(), err
}

// free is how many bytes a file system has left for everybody.
func free(dir string) (int64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("how much room there is in %s: %w", dir, err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}

// nameless is a file that is gone when it is closed, however that comes about.
func nameless(pattern string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(pattern), filepath.Base(pattern))
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

package delta

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// segmentEncoder encodes segments: a decoder, to see what that one will see.
type segmentEncoder struct {
	Decoder
	best []byte
	// Buffers.
	literals, out, coded []byte
}

// encode returns the shortest of what the head's coder allows.
func (e *segmentEncoder) encode(s Segment, want []byte) ([]byte, error) {
	e.best = append([]byte{byte(methodStored)}, want...)
	plain, err := e.frames.compress(want)
	if err != nil {
		return nil, err
	}
	e.offer(methodZstd, plain)
	set, out, err := e.choosePasses(s, want)
	if err != nil {
		return nil, err
	}
	if err := e.zstd(set, out, want); err != nil || e.head.Coder == Zstd {
		return e.best, err
	}
	if err := e.mixed(s, set, out, want); err != nil {
		return nil, err
	}
	// Fewer bytes that differ are not always fewer bytes that surprise: tables of
	// addresses are often better foreseen as they were.
	if without := set & codePasses; without != set {
		if err := e.predict(out, s, without); err != nil {
			return nil, err
		}
		if err := e.mixed(s, without, out, want); err != nil {
			return nil, err
		}
	}
	return e.best, nil
}

func (e *segmentEncoder) mixed(s Segment, set uint16, out, want []byte) error {
	passes := binary.LittleEndian.AppendUint16(nil, set)
	literals := e.literals[:0]
	for _, p := range e.parts.list {
		if !p.copied() {
			literals = append(literals, want[p.start:p.end]...)
		}
	}
	e.literals = literals
	try := func(how method, before []byte, plain func([]byte) bool) int {
		c := newEncoder(append(e.coded[:0], before...))
		e.out = append(e.out[:0], out...)
		e.models.code(&c, e.parts.list, e.out, e.raw, want, s.Start, how, plain)
		e.coded = c.finish()
		e.offer(how, e.coded)
		return len(e.coded)
	}
	n := try(methodMixed, passes, nil)
	if len(literals) > 0 && n > len(literals) { // else the models surely did better
		try(methodLiteral, append(passes, literals...), nil)
	}
	if len(literals) == 0 || n <= len(literals)/2 {
		return nil // little of it can be noise
	}
	var failed error
	try(methodMarked, passes, func(piece []byte) bool {
		frame, err := e.frames.compress(piece)
		failed = errors.Join(failed, err)
		return len(frame) >= len(piece)-len(piece)/64
	})
	return failed
}

// modelWorth: models take a device a hundred times as long as the other methods, so they have
// to make a segment shorter by more than one part of so many.
const modelWorth = 200

// offer keeps the shortest, or what is nearly as short and takes a device much less time.
func (e *segmentEncoder) offer(m method, data []byte) {
	most := len(e.best)
	if m.models() && !method(e.best[0]).models() {
		most -= most / modelWorth
	}
	if 1+len(data) < most {
		e.best = append([]byte{byte(m)}, data...)
	}
}

func (e *segmentEncoder) zstd(set uint16, out, want []byte) error {
	var diff, literals []byte
	for _, p := range e.parts.list {
		if !p.copied() {
			literals = append(literals, want[p.start:p.end]...)
			continue
		}
		for i := p.start; i < p.end; i++ {
			diff = append(diff, want[i]-out[i])
		}
	}
	frame, err := e.frameOrStored(diff)
	if err != nil {
		return err
	}
	rest, err := e.frameOrStored(literals)
	if err != nil {
		return err
	}
	data := binary.AppendUvarint(binary.LittleEndian.AppendUint16(nil, set), uint64(len(frame)))
	e.offer(methodDelta, append(append(data, frame...), rest...))
	return nil
}

// choosePasses returns the set of passes with which least differs, adding one after
// the other, and the prediction with it.
func (e *segmentEncoder) choosePasses(s Segment, want []byte) (uint16, []byte, error) {
	out, try := make([]byte, len(want)), make([]byte, len(want))
	if err := e.predict(out, s, 0); err != nil {
		return 0, nil, err
	}
	set, least := uint16(0), e.differing(out, want)
	for i := range passes {
		if least == 0 {
			break
		}
		if err := e.predict(try, s, set|1<<i); err != nil {
			return 0, nil, err
		}
		if n := e.differing(try, want); n < least {
			set, least = set|1<<i, n
			out, try = try, out
		}
	}
	return set, out, nil
}

// differing is how many bytes of the copies differ.
func (e *segmentEncoder) differing(out, want []byte) int {
	n := 0
	for _, p := range e.parts.list {
		if !p.copied() {
			continue
		}
		a, b := out[p.start:p.end], want[p.start:p.end]
		for len(a) >= 8 {
			x := binary.LittleEndian.Uint64(a) ^ binary.LittleEndian.Uint64(b)
			// One bit for each byte that is not zero.
			x |= x >> 4 & 0x0f0f0f0f0f0f0f0f
			x |= x >> 2 & 0x3333333333333333
			x |= x >> 1 & 0x5555555555555555
			n += bits.OnesCount64(x & 0x0101010101010101)
			a, b = a[8:], b[8:]
		}
		for i := range a {
			if a[i] != b[i] {
				n++
			}
		}
	}
	return n
}

// frameOrStored is a frame that is shorter than what it holds, or that.
func (e *segmentEncoder) frameOrStored(data []byte) ([]byte, error) {
	frame, err := e.frames.compress(data)
	if err != nil || len(frame) >= len(data) {
		return data, err
	}
	return frame, nil
}

package delta

import (
	"io"
	"sync"
)

// A rebasing pass rewrites addresses in a copied range of the old image to what they
// are in the new one. Passes read the bytes as they were, and leave alone what an
// earlier pass has rewritten.
type pass struct {
	name string
	run  func(p *piece)
}

// passes by number: bit i of a segment's byte says that passes[i] is run. The list
// only grows.
var passes = []pass{
	{"arm64", rebaseARM64},
	{"x86", rebaseX86},
	{"thumb", rebaseThumb},
	{"riscv", rebaseRISCV},
	{"absolute 32", rebaseAbsolute32},
	{"absolute 64", rebaseAbsolute64},
	{"relative 32", rebaseRelative32},
}

// codePasses are those for instructions.
const codePasses = 1<<4 - 1

// rebaser knows where what was in the old image is in the new one.
type rebaser struct {
	// addresses takes memory in proportion to the copies to make, so it is made for the first
	// who looks one up: in data nobody does.
	addresses func() *addresses
	programs  []program
	whole     program // what is in no program: addresses are offsets
}

func newRebaser(h *Head, old io.ReaderAt) (*rebaser, error) {
	programs, err := newPrograms(h, old)
	if err != nil {
		return nil, err
	}
	return &rebaser{
		addresses: sync.OnceValue(func() *addresses { return newAddresses(h.copies.since(-1), h.OldLength) }),
		programs:  programs,
		whole:     program{end: h.OldLength, loads: []load{{size: h.OldLength, reach: uint64(h.OldLength)}}},
	}, nil
}

// piece is a copied range.
type piece struct {
	raw, out []byte // as it was, and as it becomes: of the same length
	address  uint64 // of raw[0] in the old program
	moved    int64  // by how much that address grew
	program  *program
	r        *rebaser
	lookup   *addresses // of r; nil: not needed yet
	// addresses of the load with raw[0] that moved by the same: most targets.
	sameLow, sameHigh uint64
}

// rebase runs the passes of a set on a copy, of which raw and out are bytes from the
// old offset on. The whole copy is c. The piece is overwritten: it is the caller's so
// that it need not be allocated.
func (r *rebaser) rebase(p *piece, set uint16, raw, out []byte, from int64, c copied) {
	*p = piece{raw: raw, out: out, program: programAt(r.programs, from), r: r}
	if p.program == nil {
		p.program = &r.whole
	}
	var l *load
	for i := range p.program.loads {
		if x := &p.program.loads[i]; from >= x.offset && from < x.offset+x.size {
			l = x
			break
		}
	}
	if l == nil {
		return // headers and tables that no program sees
	}
	p.address = l.address + uint64(from-l.offset)
	p.moved = int64(c.at) - int64(c.from) + l.moved
	low, high := max(int64(c.from), l.offset), min(int64(c.from)+int64(c.size), l.offset+l.size)
	p.sameLow, p.sameHigh = l.address+uint64(low-l.offset), l.address+uint64(high-l.offset)
	for i, pass := range passes {
		if set>>i&1 != 0 {
			pass.run(p)
		}
	}
}

// target returns by how much an old address grew, if it is one of the program.
func (p *piece) target(address uint64) (moved int64, ok bool) {
	if address >= p.sameLow && address < p.sameHigh {
		return p.moved, true
	}
	for i := range p.program.loads {
		l := &p.program.loads[i]
		if d := address - l.address; d < l.reach {
			if p.lookup == nil {
				p.lookup = p.r.addresses()
			}
			return p.lookup.shift(l.offset+min(int64(d), l.size-1)) + l.moved, true
		}
	}
	return 0, false
}

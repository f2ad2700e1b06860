package zstdparse

import (
	"encoding/binary"
	"math/bits"
)

// sequences appends their bitstream, from the last one to the first, as libzstd does
// (ZSTD_encodeSequences), and reports whether the tables have all of their symbols.
func (w *Writer) sequences(dst, records, longs []byte) ([]byte, bool) {
	out := forward{out: dst}
	tl, to, tm := w.tables[literalLengths], w.tables[offsets], w.tables[matchLengths]
	var sl, so, sm uint32
	for first := true; len(records) > 0; first = false {
		rec := records[len(records)-recordLength:]
		records = records[:len(records)-recordLength]
		literals, match, offset := uint32(rec[0]), uint32(rec[1]), binary.LittleEndian.Uint32(rec[2:])
		if match == long {
			match = get24(longs[len(longs)-longLength:])
			longs = longs[:len(longs)-longLength]
		}
		if literals == long {
			literals = get24(longs[len(longs)-longLength:])
			longs = longs[:len(longs)-longLength]
		}
		if offset == 0 {
			return dst, false
		}
		cl, co, cm := literalCode(literals), uint8(bits.Len32(offset)-1), matchCode(match)
		xl, xm := kindsOf[literalLengths].codes[cl].extra, kindsOf[matchLengths].codes[cm].extra
		if first {
			var okl, oko, okm bool
			sl, okl = tl.first(cl)
			so, oko = to.first(co)
			sm, okm = tm.first(cm)
			if !okl || !oko || !okm {
				return dst, false
			}
		} else {
			ro, rm, rl := to.of[co], tm.of[cm], tl.of[cl]
			no, nm, nl := (so+ro.bits)>>16, (sm+rm.bits)>>16, (sl+rl.bits)>>16
			if no|nm|nl > 15 {
				return dst, false
			}
			out.add(uint64(so), uint8(no))
			out.add(uint64(sm), uint8(nm))
			out.add(uint64(sl), uint8(nl))
			so = uint32(to.next[(int32(so>>no)+ro.find)&(maxStates-1)])
			sm = uint32(tm.next[(int32(sm>>nm)+rm.find)&(maxStates-1)])
			sl = uint32(tl.next[(int32(sl>>nl)+rl.find)&(maxStates-1)])
		}
		if out.n+xl+xm+co > 64 {
			out.flush()
		}
		// The lowest bits of a number are what it has beyond its symbol's: these are multiples.
		out.add(uint64(literals), xl)
		out.add(uint64(match), xm)
		if out.n+co > 64 {
			out.flush()
		}
		out.add(uint64(offset), co)
		out.flush()
	}
	out.add(uint64(sm), tm.log)
	out.add(uint64(so), to.log)
	out.add(uint64(sl), tl.log)
	out.flush()
	out.close()
	return out.out, true
}

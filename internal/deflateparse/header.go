package deflateparse

import "groundswell/internal/deflate/codes"

// runs are the codes of repetition: what a byte of the form is that stands for the shortest
// one, how many that is, and how many bits say how many more.
var runs = [...]struct {
	byte, least uint8
	extra       uint
}{{16, 3, 2}, {20, 3, 3}, {28, 11, 7}, {156, 0, 0}}

// header is that of a dynamic block as it stands in the form: HLIT, HDIST, HCLEN, the
// lengths of the codes of code lengths in the order in which they are sent, and a byte for
// each of these codes: a length; or 16, 20 or 28 and how much longer than the shortest a
// repetition, a few zeros or many zeros are.
type header struct {
	form    []byte
	lengths [literalCodes + distanceCodes]uint8 // what it says
	decode  decoder                             // of the symbols of code lengths
	encode  encoder
}

// sizes are how many lengths there are of the two sets.
func (h *header) sizes() (literals, distances int) {
	return int(h.form[0]) + firstLength, int(h.form[1]) + 1
}

// sets are the lengths of the codes of literals, and of distances.
func (h *header) sets() (literals, distances []uint8) {
	n, m := h.sizes()
	return h.lengths[:n], h.lengths[n : n+m]
}

// sent is the lengths of the codes of code lengths.
func (h *header) sent() (l [codes.MostSent]uint8) {
	for i, n := range h.form[3 : 3+int(h.form[2])+codes.LeastSent] {
		l[codes.SendOrder[i]] = n
	}
	return l
}

// repeated appends what a byte behind them stands for to n lengths, and returns how many
// there are then; 0: too many, or no length before.
func (h *header) repeated(b uint8, n, most int) int {
	if b < runs[0].byte {
		if n == most {
			return 0
		}
		h.lengths[n] = b
		return n + 1
	}
	code := codeOf(b)
	length, times := uint8(0), int(b-runs[code-codes.Repeat].byte+runs[code-codes.Repeat].least)
	if code == codes.Repeat {
		if n == 0 {
			return 0
		}
		length = h.lengths[n-1]
	}
	if n+times > most {
		return 0
	}
	for i := range times {
		h.lengths[n+i] = length
	}
	return n + times
}

// codeOf is the code that a byte from 16 on stands for.
func codeOf(b uint8) int {
	code := codes.Repeat
	for code < codes.ManyZeros && b >= runs[code-codes.Repeat+1].byte {
		code++
	}
	return code
}

// read takes it from a stream.
func (h *header) read(in *input) bool {
	h.form = append(h.form[:0], byte(in.read(5)), byte(in.take(5)), byte(in.take(4)))
	literals, distances := h.sizes()
	if literals > literalCodes || distances > distanceCodes {
		return false
	}
	for range int(h.form[2]) + codes.LeastSent {
		h.form = append(h.form, byte(in.read(3)))
	}
	lengths := h.sent()
	if !h.decode.build(lengths[:]) {
		return false
	}
	for n := 0; n < literals+distances; {
		in.fill()
		code, bits := h.decode.next(in.acc)
		if code < 0 {
			return false
		}
		in.skip(bits)
		b := uint8(code)
		if code >= codes.Repeat {
			run := runs[code-codes.Repeat]
			b = run.byte + uint8(in.take(run.extra))
		}
		h.form = append(h.form, b)
		if n = h.repeated(b, n, literals+distances); n == 0 {
			return false
		}
	}
	return true
}

// write puts it into a stream, and reports whether it is one.
func (h *header) write(out *output, form []byte) bool {
	h.form = form
	if len(form) < 3 || form[0] >= literalCodes-firstLength+1 || form[1] >= distanceCodes || form[2] > codes.MostSent-codes.LeastSent {
		return false
	}
	sent := 3 + int(form[2]) + codes.LeastSent
	if len(form) < sent {
		return false
	}
	out.add(uint64(form[0])|uint64(form[1])<<5|uint64(form[2])<<10, 14)
	for _, n := range form[3:sent] {
		if n > 7 {
			return false
		}
		out.add(uint64(n), 3)
		out.flush()
	}
	lengths := h.sent()
	if !h.encode.build(lengths[:]) {
		return false
	}
	literals, distances := h.sizes()
	n := 0
	for _, b := range form[sent:] {
		code, extra, bits := int(b), uint64(0), uint(0)
		if b >= runs[0].byte {
			if b >= runs[len(runs)-1].byte {
				return false
			}
			code = codeOf(b)
			extra, bits = uint64(b-runs[code-codes.Repeat].byte), runs[code-codes.Repeat].extra
		}
		if h.encode.length[code] == 0 {
			return false
		}
		if n = h.repeated(b, n, literals+distances); n == 0 {
			return false
		}
		out.add(uint64(h.encode.code[code]), uint(h.encode.length[code]))
		out.add(extra, bits)
		out.flush()
	}
	return n == literals+distances
}

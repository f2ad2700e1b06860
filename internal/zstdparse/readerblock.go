package zstdparse

// compressed takes apart the block in r.block[pad:] (RFC 8878, 3.1.1.3).
func (r *Reader) compressed() error {
	at, err := r.literals(pad)
	if err != nil {
		return err
	}
	if at, err = r.sequenceTables(at); err != nil {
		return err
	}
	r.longs = r.longs[:0]
	used := 0
	switch {
	case r.head.sequences > 0:
		if used, err = r.sequences(at); err != nil {
			return err
		}
	case at != len(r.block):
		return ErrCorrupt
	}
	rest := r.literal[used:]
	if r.end-r.start+len(rest) > maxBlock {
		return ErrCorrupt
	}
	r.end += copy(r.window[r.end:], rest)
	r.head.longs = len(r.longs) / longLength
	r.parse = append(r.parse, r.longs...)
	return nil
}

// literals reads the literals section and returns where it ends.
func (r *Reader) literals(at int) (int, error) {
	b := r.block
	if at == len(b) {
		return 0, ErrCorrupt
	}
	h := &r.head
	h.literals, h.sizeFormat = b[at]&3, b[at]>>2&3
	if h.literals >= literalsCompressed {
		return r.packedLiterals(at)
	}
	if h.sizeFormat == 2 {
		h.sizeFormat = 0 // one bit only
	}
	length := 1 + int(h.sizeFormat+1)/2
	if at+length > len(b) {
		return 0, ErrCorrupt
	}
	size := 0
	switch length {
	case 1:
		size = int(b[at] >> 3)
	case 2:
		size = (int(b[at]) | int(b[at+1])<<8) >> 4
	case 3:
		size = int(get24(b[at:]) >> 4)
	}
	at += length
	if size > maxBlock {
		return 0, ErrCorrupt
	}
	if h.literals == literalsRaw {
		if at+size > len(b) {
			return 0, ErrCorrupt
		}
		r.literal = append(r.literal[:0], b[at:at+size]...)
		return at + size, nil
	}
	if at == len(b) {
		return 0, ErrCorrupt
	}
	r.literal = resize(r.literal, size)
	for i := range r.literal {
		r.literal[i] = b[at]
	}
	return at + 1, nil
}

// packedLiterals reads those that are coded by a tree, of this block or of an earlier one.
func (r *Reader) packedLiterals(at int) (int, error) {
	b, h := r.block, &r.head
	length := 3 + max(0, int(h.sizeFormat)-1)
	if at+length > len(b) {
		return 0, ErrCorrupt
	}
	v := uint64(0)
	for i := range length {
		v |= uint64(b[at+i]) << (8 * i)
	}
	width := []int{10, 10, 14, 18}[h.sizeFormat]
	size, packed := int(v>>4)&(1<<width-1), int(v>>4>>width)
	at += length
	end := at + packed
	if size > maxBlock || end > len(b) {
		return 0, ErrCorrupt
	}
	if h.literals == literalsCompressed {
		n := r.tree.read(b[at:end])
		if n == 0 {
			return 0, ErrCorrupt
		}
		r.decoder.build(&r.tree)
		r.hasTree = true
		h.tree = n
		r.parse = append(r.parse, b[at:at+n]...)
		at += n
	}
	if !r.hasTree {
		return 0, ErrCorrupt
	}
	r.literal = resize(r.literal, size)
	if h.sizeFormat > 0 {
		if !r.decoder.four(r.literal, b, at, end) {
			return 0, ErrCorrupt
		}
		return end, nil
	}
	var in backward
	if !in.open(b, at, end) || !r.decoder.one(r.literal, &in) {
		return 0, ErrCorrupt
	}
	return end, nil
}

// sequenceTables reads the head of the sequences section and returns where it ends.
func (r *Reader) sequenceTables(at int) (int, error) {
	b, h := r.block[at:], &r.head
	switch {
	case len(b) > 0 && b[0] < 128:
		h.sequences = int(b[0])
		at++
	case len(b) > 1 && b[0] < 255:
		h.sequences = int(b[0]-128)<<8 + int(b[1])
		h.wide = h.sequences < 128
		at += 2
	case len(b) > 2:
		h.sequences = int(b[1]) + int(b[2])<<8 + 0x7f00
		at += 3
	default:
		return 0, ErrCorrupt
	}
	if h.sequences == 0 {
		return at, nil
	}
	if h.sequences*minMatch > maxBlock || at == len(r.block) {
		return 0, ErrCorrupt
	}
	h.modes = r.block[at]
	at++
	if h.modes&3 != 0 {
		return 0, ErrCorrupt
	}
	for i := range r.tables {
		b := r.block[at:]
		k, n := &kindsOf[i], 0
		switch h.mode(i) {
		case predefined:
			r.tables[i] = &k.decode
		case rle:
			if len(b) == 0 || int(b[0]) >= k.symbols {
				return 0, ErrCorrupt
			}
			n = 1
			r.own[i].rle(k.codes[b[0]])
			r.tables[i] = &r.own[i]
		case compressed:
			if n = r.counts.read(b, k.symbols, k.maxLog); n == 0 {
				return 0, ErrCorrupt
			}
			r.own[i].build(&r.counts, &k.codes)
			r.tables[i] = &r.own[i]
		case repeat:
			if r.tables[i] == nil {
				return 0, ErrCorrupt
			}
		}
		h.tables[i] = n
		r.parse = append(r.parse, b[:n]...)
		at += n
	}
	return at, nil
}

// sequences reads them, makes the content that they say, and returns how many literals
// they took.
func (r *Reader) sequences(at int) (int, error) {
	var in backward
	if !in.open(r.block, at, len(r.block)) {
		return 0, ErrCorrupt
	}
	tl, to, tm := r.tables[literalLengths], r.tables[offsets], r.tables[matchLengths]
	sl := in.take(tl.log)
	so := in.take(to.log)
	sm := in.take(tm.log)
	if in.bit < in.end {
		return 0, ErrCorrupt
	}
	records := len(r.parse)
	n := r.head.sequences
	r.parse = resize(r.parse, records+n*recordLength)
	record := r.parse[records:]
	window, literal := r.window, r.literal
	end, most := r.end, r.start+maxBlock
	rep := r.rep
	used := 0
	for i := range n {
		el, eo, em := &tl.entries[sl&(maxStates-1)], &to.entries[so&(maxStates-1)], &tm.entries[sm&(maxStates-1)]
		acc := in.load()
		offset := eo.base + top(acc, eo.extra)
		took := eo.extra
		acc <<= took & 63
		if took+em.extra+el.extra > 57 {
			in.bit -= int(took)
			acc, took = in.load(), 0
		}
		match := em.base + top(acc, em.extra)
		acc <<= em.extra & 63
		literals := el.base + top(acc, el.extra)
		acc <<= el.extra & 63
		took += em.extra + el.extra
		if i < n-1 {
			if took+el.bits+em.bits+eo.bits > 57 {
				in.bit -= int(took)
				acc, took = in.load(), 0
			}
			sl = uint32(el.next) + top(acc, el.bits)
			acc <<= el.bits & 63
			sm = uint32(em.next) + top(acc, em.bits)
			acc <<= em.bits & 63
			so = uint32(eo.next) + top(acc, eo.bits)
			took += el.bits + em.bits + eo.bits
		}
		if in.bit -= int(took); in.bit < in.end {
			return 0, ErrCorrupt
		}

		rec := record[i*recordLength : i*recordLength+recordLength : i*recordLength+recordLength]
		rec[0], rec[1] = byte(literals), byte(match)
		if literals >= long {
			rec[0] = long
			r.longs = append(r.longs, byte(literals), byte(literals>>8), byte(literals>>16))
		}
		if match >= long {
			rec[1] = long
			r.longs = append(r.longs, byte(match), byte(match>>8), byte(match>>16))
		}
		rec[2], rec[3], rec[4], rec[5] = byte(offset), byte(offset>>8), byte(offset>>16), byte(offset>>24)

		lits, length := int(literals), int(match)+minMatch
		if lits > len(literal)-used || end+lits+length > most {
			return 0, ErrCorrupt
		}
		if lits <= 16 && used+16 <= len(literal) {
			*(*[16]byte)(window[end:]) = [16]byte(literal[used:])
		} else {
			copy(window[end:], literal[used:used+lits])
		}
		used += lits
		end += lits

		distance := 0
		if offset > 3 {
			distance = int(offset - 3)
			rep[2], rep[1], rep[0] = rep[1], rep[0], uint32(distance)
		} else {
			if lits == 0 {
				offset++
			}
			switch offset {
			case 1:
				distance = int(rep[0])
			case 2:
				distance = int(rep[1])
				rep[1], rep[0] = rep[0], uint32(distance)
			case 3:
				distance = int(rep[2])
				rep[2], rep[1], rep[0] = rep[1], rep[0], uint32(distance)
			default:
				distance = int(rep[0]) - 1
				rep[2], rep[1], rep[0] = rep[1], rep[0], uint32(distance)
			}
		}
		if distance <= 0 { // or too large for an int
			return 0, ErrCorrupt
		}
		source := end - distance
		if source < 0 {
			got, err := r.far(end, source, length)
			if err != nil {
				return 0, err
			}
			if end += got; got == length {
				continue
			}
			source, length = 0, length-got
		}
		switch {
		case distance >= 16 && length <= 16:
			*(*[16]byte)(window[end:]) = [16]byte(window[source:])
			end += length
		case distance >= length:
			end += copy(window[end:end+length], window[source:])
		default:
			for stop := end + length; end < stop; {
				end += copy(window[end:stop], window[source:end])
			}
		}
	}
	if in.bit != in.end {
		return 0, ErrCorrupt
	}
	r.end, r.rep = end, rep
	return used, nil
}

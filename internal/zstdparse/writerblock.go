package zstdparse

// compressed appends a compressed block, without its header, and reports whether parse and
// content are of one.
func (w *Writer) compressed(dst, parse, content []byte) ([]byte, bool) {
	h := &w.head
	tree, parse := parse[:h.tree], parse[h.tree:]
	if h.tree > 0 {
		if w.tree.read(tree) != len(tree) {
			return dst, false
		}
		w.encoder.build(&w.tree)
		w.hasTree = true
	}
	tables := parse[:h.tables[0]+h.tables[1]+h.tables[2]]
	parse = parse[len(tables):]
	records, longs := parse[:h.sequences*recordLength], parse[h.sequences*recordLength:]
	if !w.gather(records, longs, content) {
		return dst, false
	}
	dst, ok := w.literals(dst, tree)
	if !ok {
		return dst, false
	}
	switch n := h.sequences; {
	case n < 128 && !h.wide:
		dst = append(dst, byte(n))
	case n < 0x7f00:
		dst = append(dst, byte(n>>8)+128, byte(n))
	default:
		dst = append(dst, 255, byte(n-0x7f00), byte((n-0x7f00)>>8))
	}
	if h.sequences == 0 {
		return dst, len(tables) == 0
	}
	dst = append(append(dst, h.modes), tables...)
	if !w.readTables(tables) {
		return dst, false
	}
	return w.sequences(dst, records, longs)
}

// gather collects the literals: the content that no match covers. It reports whether the
// sequences fit the content.
func (w *Writer) gather(records, longs, content []byte) bool {
	w.literal = w.literal[:0]
	for ; len(records) > 0; records = records[recordLength:] {
		lits, match := int(records[0]), int(records[1])
		if lits == long {
			if len(longs) == 0 {
				return false
			}
			lits, longs = int(get24(longs)), longs[longLength:]
		}
		if match == long {
			if len(longs) == 0 {
				return false
			}
			match, longs = int(get24(longs)), longs[longLength:]
		}
		if lits+match+minMatch > len(content) {
			return false
		}
		w.literal = append(w.literal, content[:lits]...)
		content = content[lits+match+minMatch:]
	}
	w.literal = append(w.literal, content...)
	return len(longs) == 0
}

// literals appends the literals section.
func (w *Writer) literals(dst, tree []byte) ([]byte, bool) {
	h := &w.head
	size := len(w.literal)
	begin := len(dst)
	if h.literals < literalsCompressed {
		switch v := uint32(size)<<4 | uint32(h.sizeFormat)<<2 | uint32(h.literals); h.sizeFormat {
		case 0:
			if size > 31 {
				return dst, false
			}
			dst = append(dst, byte(size<<3)|h.literals)
		case 1:
			if size > 0xfff {
				return dst, false
			}
			dst = append(dst, byte(v), byte(v>>8))
		case 3:
			dst = append(dst, byte(v), byte(v>>8), byte(v>>16))
		default:
			return dst, false
		}
		if h.literals == literalsRLE {
			return append(dst, firstOf(w.literal)), true
		}
		return append(dst, w.literal...), true
	}
	if !w.hasTree {
		return dst, false
	}
	length := 3 + max(0, int(h.sizeFormat)-1)
	dst = append(dst, make([]byte, length)...)
	dst = append(dst, tree...)
	var ok bool
	if h.sizeFormat == 0 {
		dst, ok = w.encoder.one(dst, w.literal)
	} else {
		dst, ok = w.encoder.four(dst, w.literal)
	}
	width := []int{10, 10, 14, 18}[h.sizeFormat]
	packed := len(dst) - begin - length
	if !ok || size>>width > 0 || packed>>width > 0 {
		return dst, false
	}
	v := uint64(h.literals) | uint64(h.sizeFormat)<<2 | uint64(size)<<4 | uint64(packed)<<(4+width)
	for i := range length {
		dst[begin+i] = byte(v >> (8 * i))
	}
	return dst, true
}

// readTables makes the sequences' tables by their modes and descriptions.
func (w *Writer) readTables(b []byte) bool {
	for i := range w.tables {
		k, n := &kindsOf[i], w.head.tables[i]
		switch w.head.mode(i) {
		case predefined:
			w.tables[i] = &k.encode
		case rle:
			if int(b[0]) >= k.symbols {
				return false
			}
			w.own[i].rle(b[0])
			w.tables[i] = &w.own[i]
		case compressed:
			if w.counts.read(b[:n], k.symbols, k.maxLog) != n || n == 0 {
				return false
			}
			w.own[i].build(&w.counts)
			w.tables[i] = &w.own[i]
		case repeat:
			if w.tables[i] == nil {
				return false
			}
		}
		b = b[n:]
	}
	return true
}

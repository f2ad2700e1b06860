package zstdparse

// Types of blocks (RFC 8878, 3.1.1.2.2) and of literals (3.1.1.3.1.1).
const (
	blockRaw = iota
	blockRLE
	blockCompressed

	literalsRaw        = 0
	literalsRLE        = 1
	literalsCompressed = 2
	literalsTreeless   = 3
)

const (
	headLength   = 14 // of a block in the form
	recordLength = 6  // of a sequence: literal length, match length, offset value
	longLength   = 3
	long         = 255 // a length that stands behind the sequences
	magic        = 0xfd2fb528
)

// head is what the form says of a block before anything else.
type head struct {
	kind        uint8 // of the block
	last        bool
	literals    uint8 // type of the literals section
	sizeFormat  uint8 // how their length is written; which is free where a shorter one would do
	modes       uint8
	content     int
	sequences   int
	wide        bool // below 128, their number takes two bytes all the same, as older libzstd has it for 127
	longs       int
	tree        int // bytes of the description
	tables      [kinds]int
	parseLength int // of what is between the head and the content
}

func (h *head) put(b []byte) {
	b[0] = h.kind | h.literals<<3 | h.sizeFormat<<5
	if h.last {
		b[0] |= 4
	}
	if h.wide {
		b[0] |= 0x80
	}
	b[1] = h.modes
	put24(b[2:], uint32(h.content))
	put24(b[5:], uint32(h.sequences))
	b[8], b[9] = byte(h.longs), byte(h.longs>>8)
	b[10] = byte(h.tree)
	for i, n := range h.tables {
		b[11+i] = byte(n)
	}
}

// parse reads headLength bytes and reports whether a block may be like that.
func (h *head) parse(b []byte) bool {
	*h = head{
		kind: b[0] & 3, last: b[0]&4 != 0, literals: b[0] >> 3 & 3, sizeFormat: b[0] >> 5 & 3, modes: b[1],
		content: int(get24(b[2:])), sequences: int(get24(b[5:])), longs: int(b[8]) + int(b[9])<<8,
		wide: b[0]&0x80 != 0, tree: int(b[10]), tables: [kinds]int{int(b[11]), int(b[12]), int(b[13])},
	}
	if h.content > maxBlock {
		return false
	}
	if h.kind != blockCompressed {
		return h.kind < blockCompressed && b[0]>>3 == 0 && b[1] == 0 && [9]byte(b[5:]) == [9]byte{}
	}
	for kind, n := range h.tables {
		switch h.mode(kind) {
		case rle:
			if n != 1 {
				return false
			}
		case predefined, repeat:
			if n != 0 {
				return false
			}
		}
	}
	h.parseLength = h.tree + h.tables[0] + h.tables[1] + h.tables[2] + h.sequences*recordLength + h.longs*longLength
	return h.modes&3 == 0 && (!h.wide || h.sequences < 128) && (h.sequences > 0 || h.modes == 0) && h.sequences*minMatch <= h.content && h.longs*long <= h.content && (h.literals == literalsCompressed) == (h.tree > 0)
}

func (h *head) mode(kind int) uint8 { return h.modes >> (6 - 2*kind) & 3 }

func put24(b []byte, v uint32) { b[0], b[1], b[2] = byte(v), byte(v>>8), byte(v>>16) }

func get24(b []byte) uint32 { return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 }

// frameHeader is the length of the header of a frame that begins so, by its descriptor
// (RFC 8878, 3.1.1.1), and whether a checksum ends the frame.
func frameHeader(descriptor byte) (length int, checksum bool) {
	length = 5 + []int{0, 1, 2, 4}[descriptor&3]
	single := descriptor&0x20 != 0
	if !single {
		length++
	}
	switch descriptor >> 6 {
	case 0:
		if single {
			length++
		}
	case 1:
		length += 2
	case 2:
		length += 4
	case 3:
		length += 8
	}
	return length, descriptor&4 != 0
}

// checkHeader refuses what is not taken apart, by the first 5 bytes.
func checkHeader(b []byte) error {
	switch m := get24(b) | uint32(b[3])<<24; {
	case m>>4 == 0x184d2a5:
		return ErrUnsupported
	case m != magic || b[4]&8 != 0: // a reserved bit
		return ErrCorrupt
	case b[4]&3 != 0:
		return ErrUnsupported
	}
	return nil
}

package delta

import "encoding/binary"

// rebaseX86 rewrites the 32-bit displacements of calls, jumps and operands relative
// to the instruction pointer, without decoding instructions: what looks like one and
// whose target lies in the program is taken for one.
func rebaseX86(p *piece) {
	le := binary.LittleEndian
	for i := 0; i+5 <= len(p.raw); i++ {
		b, next := p.raw[i], p.raw[i+1]
		field := 0
		switch {
		case b == 0xe8 || b == 0xe9: // CALL, JMP
			field = i + 1
		case b == 0x0f && next&0xf0 == 0x80: // Jcc
			field = i + 2
		case next&0xc7 == 0x05 && ripOpcode[b]: // ModRM of [RIP + disp32]
			field = i + 2
		default:
			continue
		}
		if field+4 > len(p.raw) {
			continue
		}
		v := le.Uint32(p.raw[field:])
		if le.Uint32(p.out[field:]) != v {
			continue
		}
		moved, ok := p.target(p.address + uint64(field+4) + uint64(int64(int32(v))))
		if !ok {
			continue
		}
		le.PutUint32(p.out[field:], v+uint32(moved-p.moved))
		i = field + 3
	}
}

// ripOpcode has the opcodes that are commonly seen with such operands: arithmetic,
// MOV, LEA, CMP, TEST, group 1, 3 and 5, and of two bytes MOVSS, MOVAPS, MOVZX,
// MOVSX, CMOV and their kin by their second byte.
var ripOpcode = func() (set [256]bool) {
	for _, op := range []byte{
		0x01, 0x03, 0x09, 0x0b, 0x21, 0x23, 0x29, 0x2b, 0x31, 0x33, 0x38, 0x39, 0x3a, 0x3b, 0x63,
		0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0xc6, 0xc7, 0xf6, 0xf7, 0xfe, 0xff,
		0x10, 0x11, 0x28, 0x2e, 0x2f, 0x54, 0x57, 0x58, 0x59, 0x5c, 0x5e, 0x6f, 0x7e, 0x7f, 0xb6, 0xb7, 0xbe, 0xbf, 0xc1, 0xb1,
		0x40, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4c, 0x4d, 0x4e, 0x4f,
	} {
		set[op] = true
	}
	return set
}()

// rebaseAbsolute32 rewrites 32-bit words, at any offset, that are addresses of the
// program (x86 extends them by their sign).
func rebaseAbsolute32(p *piece) {
	low, high := p.program.bounds()
	if high-low > 1<<31 || low == 0 {
		return // offsets: any number could be one
	}
	le := binary.LittleEndian
	base := low
	for i := 0; i+4 <= len(p.raw); i++ {
		v := le.Uint32(p.raw[i:])
		if uint64(v-uint32(base)) >= high-low {
			continue
		}
		moved, ok := p.target(base + uint64(v-uint32(base)))
		if !ok {
			continue
		}
		if moved != 0 && le.Uint32(p.out[i:]) == v {
			le.PutUint32(p.out[i:], v+uint32(moved))
		}
		i += 3
	}
}

// rebaseAbsolute64 rewrites aligned 64-bit words that are addresses of the program.
func rebaseAbsolute64(p *piece) {
	le := binary.LittleEndian
	for i := int(-p.address & 7); i+8 <= len(p.raw); i += 8 {
		v := le.Uint64(p.raw[i:])
		if v == 0 || le.Uint64(p.out[i:]) != v {
			continue
		}
		if moved, ok := p.target(v); ok {
			le.PutUint64(p.out[i:], v+uint64(moved))
		}
	}
}

// rebaseRelative32 rewrites aligned 32-bit words that say how far their target is.
func rebaseRelative32(p *piece) {
	le := binary.LittleEndian
	for i := int(-p.address & 3); i+4 <= len(p.raw); i += 4 {
		v := le.Uint32(p.raw[i:])
		if le.Uint32(p.out[i:]) != v {
			continue
		}
		if moved, ok := p.target(p.address + uint64(i) + uint64(int64(int32(v)))); ok {
			le.PutUint32(p.out[i:], v+uint32(moved-p.moved))
		}
	}
}

// bounds are the lowest address of a program, and that behind its highest.
func (p *program) bounds() (low, high uint64) {
	low = ^uint64(0)
	for _, l := range p.loads {
		if l.address >= 1<<16 || len(p.loads) == 1 {
			low, high = min(low, l.address), max(high, l.address+uint64(l.size))
		}
	}
	return low, high
}

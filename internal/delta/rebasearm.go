package delta

import "encoding/binary"

// rebaseARM64 rewrites B, BL, B.cond, CBZ, LDR (literal), ADR, and ADRP with the ADD
// or load that follows it (Arm ARM DDI 0487, C4.1).
func rebaseARM64(p *piece) {
	le := binary.LittleEndian
	for i := int(-p.address & 3); i+4 <= len(p.raw); i += 4 {
		w := le.Uint32(p.raw[i:])
		if le.Uint32(p.out[i:]) != w {
			continue
		}
		at := p.address + uint64(i)
		switch {
		case w&0x7c000000 == 0x14000000: // B, BL
			disp := int64(int32(w<<6)) >> 4
			if moved, ok := p.target(at + uint64(disp)); ok && moved != p.moved {
				le.PutUint32(p.out[i:], w&0xfc000000|uint32((disp+moved-p.moved)>>2)&0x03ffffff)
			}
		case w&0xff000010 == 0x54000000, w&0x7e000000 == 0x34000000, w&0x3b000000 == 0x18000000: // B.cond, CBZ, LDR
			disp := int64(int32(w<<8)>>13) << 2
			if moved, ok := p.target(at + uint64(disp)); ok && moved != p.moved {
				le.PutUint32(p.out[i:], w&0xff00001f|uint32((disp+moved-p.moved)>>2)&0x7ffff<<5)
			}
		case w&0x9f000000 == 0x90000000: // ADRP
			p.adrp(i, w, at)
		}
	}
}

// adrpReach is within how many instructions the second half of an address is looked
// for.
const adrpReach = 4

func (p *piece) adrp(i int, w uint32, at uint64) {
	le := binary.LittleEndian
	pages := int64(int32(w<<8)>>13)<<2 | int64(w>>29&3)
	page := at&^0xfff + uint64(pages<<12)
	address, second, scale := page, -1, 0
	for k := i + 4; k+4 <= len(p.raw) && k <= i+4*adrpReach; k += 4 {
		v := le.Uint32(p.raw[k:])
		if v>>5&31 != w&31 { // another base register
			continue
		}
		if v&0xffc00000 == 0x91000000 { // ADD (immediate), 64 bits
			second, scale = k, 0
		} else if v&0x3b000000 == 0x39000000 { // LDR, STR (unsigned immediate)
			second, scale = k, int(v>>30)
			if v&0x04800000 == 0x04800000 { // 128-bit vector
				scale = 4
			}
		} else {
			continue
		}
		address += uint64(v>>10&0xfff) << scale
		break
	}
	moved, ok := p.target(address)
	if !ok || moved == 0 && p.moved == 0 {
		return
	}
	address += uint64(moved)
	pages = int64(address&^0xfff-(at+uint64(p.moved))&^0xfff) >> 12
	le.PutUint32(p.out[i:], w&0x9f00001f|uint32(pages&3)<<29|uint32(pages>>2)&0x7ffff<<5)
	if second >= 0 {
		v := le.Uint32(p.raw[second:])
		le.PutUint32(p.out[second:], v&^(0xfff<<10)|uint32(address&0xfff>>scale)<<10)
	}
}

// rebaseThumb rewrites BL, BLX and B.W of Thumb-2 (Arm ARM DDI 0406, A6.3.4: T1 and
// T4 of branches).
func rebaseThumb(p *piece) {
	le := binary.LittleEndian
	for i := int(p.address & 1); i+4 <= len(p.raw); i += 2 {
		hi, lo := uint32(le.Uint16(p.raw[i:])), uint32(le.Uint16(p.raw[i+2:]))
		if hi&0xf800 != 0xf000 || lo&0xd000 != 0xd000 && lo&0xd000 != 0x9000 && lo&0xd001 != 0xc000 {
			continue
		}
		s := hi >> 10 & 1
		i1, i2 := ^(lo>>13^s)&1, ^(lo>>11^s)&1
		disp := int64(int32(s<<31|i1<<30|i2<<29|hi&0x3ff<<19|lo&0x7ff<<8) >> 7)
		at := p.address + uint64(i) + 4
		if lo&0xd001 == 0xc000 { // BLX: to Arm code, from a multiple of four
			at &^= 3
		}
		moved, ok := p.target(at + uint64(disp))
		if ok && moved != p.moved && le.Uint32(p.out[i:]) == lo<<16|hi {
			v := uint32(disp + moved - p.moved)
			s, i1, i2 = v>>24&1, v>>23&1, v>>22&1
			le.PutUint16(p.out[i:], uint16(hi&0xf800|s<<10|v>>12&0x3ff))
			le.PutUint16(p.out[i+2:], uint16(lo&0xd000|(^(i1^s)&1)<<13|(^(i2^s)&1)<<11|v>>1&0x7ff))
		}
		i += 2
	}
}

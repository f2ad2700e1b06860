package delta

import "encoding/binary"

// rebaseRISCV rewrites JAL, and AUIPC with the 12-bit immediate that follows it
// (RISC-V unprivileged ISA, 2.3 and 2.5).
func rebaseRISCV(p *piece) {
	le := binary.LittleEndian
	for i := int(p.address & 1); i+4 <= len(p.raw); i += 2 {
		w := le.Uint32(p.raw[i:])
		if le.Uint32(p.out[i:]) != w {
			continue
		}
		at := p.address + uint64(i)
		switch w & 0x7f {
		case 0x6f: // JAL
			disp := int64(int32(w)>>31)<<20 | int64(w&0xff000) | int64(w>>20&1)<<11 | int64(w>>21&0x3ff)<<1
			if moved, ok := p.target(at + uint64(disp)); ok && moved != p.moved {
				v := uint32(disp + moved - p.moved)
				le.PutUint32(p.out[i:], w&0xfff|v>>20&1<<31|v>>1&0x3ff<<21|v>>11&1<<20|v&0xff000)
			}
			i += 2
		case 0x17: // AUIPC
			if p.auipc(i, w, at) {
				i += 6
			}
		}
	}
}

func (p *piece) auipc(i int, w uint32, at uint64) bool {
	le := binary.LittleEndian
	if i+8 > len(p.raw) {
		return false
	}
	v := le.Uint32(p.raw[i+4:])
	if v>>15&31 != w>>7&31 || le.Uint32(p.out[i+4:]) != v {
		return false
	}
	var low int64
	store := false
	switch v & 0x7f {
	case 0x13, 0x67, 0x03, 0x07: // ADDI, JALR, loads
		low = int64(int32(v) >> 20)
	case 0x23, 0x27: // stores
		store = true
		low = int64(int32(v)>>25)<<5 | int64(v>>7&31)
	default:
		return false
	}
	disp := int64(int32(w&0xfffff000)) + low
	moved, ok := p.target(at + uint64(disp))
	if !ok || moved == p.moved {
		return ok
	}
	d := uint32(disp + moved - p.moved)
	le.PutUint32(p.out[i:], w&0xfff|(d+0x800)&0xfffff000)
	if store {
		le.PutUint32(p.out[i+4:], v&0x01fff07f|d>>5&0x7f<<25|d&31<<7)
	} else {
		le.PutUint32(p.out[i+4:], v&0xfffff|d<<20)
	}
	return true
}

package delta

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// space is a program in an image: what its addresses mean. Both sides read the old
// program's header; of the new one the head tells what they need.
type space struct {
	at    int32   // offset of the ELF header in the old image
	moved []int32 // for each loaded range: by how much (address - offset) grew
}

// load is a range of an image that a program sees at an address.
type load struct {
	offset, size int64
	address      uint64
	reach        uint64 // bytes of addresses: those behind the size begin as zeros
	moved        int64
}

const (
	maxLoads      = 16 // of a program
	elfHeader     = 64
	elfLoad       = 1
	maxElfProgram = 64 // program headers that are looked at
)

// loadsAt reads what the ELF program at an offset has loaded where. It returns none
// if that is no program that it understands: 32 or 64 bits, little endian.
func loadsAt(image io.ReaderAt, at, length int64) ([]load, error) {
	var h [elfHeader]byte
	if at+elfHeader > length {
		return nil, nil
	}
	if _, err := image.ReadAt(h[:], at); err != nil {
		return nil, fmt.Errorf("read the old image: %w", err)
	}
	if string(h[:4]) != "\x7fELF" || h[5] != 1 {
		return nil, nil
	}
	le := binary.LittleEndian
	var table uint64
	var entry, n int
	wide := h[4] == 2
	if wide {
		table, entry, n = le.Uint64(h[32:]), int(le.Uint16(h[54:])), int(le.Uint16(h[56:]))
	} else {
		table, entry, n = uint64(le.Uint32(h[28:])), int(le.Uint16(h[42:])), int(le.Uint16(h[44:]))
	}
	if n > maxElfProgram || wide && entry != 56 || !wide && entry != 32 || table > uint64(length) {
		return nil, nil
	}
	if at+int64(table)+int64(entry*n) > length {
		return nil, nil
	}
	p := make([]byte, entry*n)
	if _, err := image.ReadAt(p, at+int64(table)); err != nil {
		return nil, fmt.Errorf("read the old image: %w", err)
	}
	var loads []load
	for ; len(p) >= entry && n > 0 && len(loads) < maxLoads; p = p[entry:] {
		if le.Uint32(p) != elfLoad {
			continue
		}
		var offset, address, size, reach uint64
		if wide {
			offset, address, size, reach = le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[32:]), le.Uint64(p[40:])
		} else {
			offset, address, size, reach = uint64(le.Uint32(p[4:])), uint64(le.Uint32(p[8:])), uint64(le.Uint32(p[16:])), uint64(le.Uint32(p[20:]))
		}
		if size == 0 || offset > uint64(length-at) || size > uint64(length-at)-offset {
			continue
		}
		loads = append(loads, load{offset: at + int64(offset), size: int64(size), address: address, reach: max(size, reach)})
	}
	return loads, nil
}

// program is a space whose loads are known.
type program struct {
	start, end int64 // in the old image
	loads      []load
}

// newPrograms reads the programs of the old image that a head names.
func newPrograms(h *Head, old io.ReaderAt) ([]program, error) {
	var list []program
	for _, s := range h.spaces {
		loads, err := loadsAt(old, int64(s.at), h.OldLength)
		if err != nil {
			return nil, err
		}
		if len(loads) == 0 {
			continue
		}
		p := program{start: int64(s.at), loads: loads}
		for i := range loads {
			if i < len(s.moved) {
				loads[i].moved = int64(s.moved[i])
			}
			p.end = max(p.end, loads[i].offset+loads[i].size)
		}
		list = append(list, p)
	}
	return list, nil
}

// programAt is the program that has this offset, or nil.
func programAt(list []program, offset int64) *program {
	i, found := slices.BinarySearchFunc(list, offset, func(p program, o int64) int { return int(min(max(p.start-o, -1), 1)) })
	if !found {
		i--
	}
	if i < 0 || offset >= list[i].end {
		return nil
	}
	return &list[i]
}

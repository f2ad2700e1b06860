package find

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"groundswell/internal/expand"
)

// xzMagic begins an xz file (The .xz File Format 1.2.0, 2.1.1).
const xzMagic = "\xfd7zXZ\x00"

const xzHeader = 12

// xzHead is how far the first stream of an xz file is from its begin.
func xzHead(h []byte) (n int, ok bool) {
	if len(h) < xzHeader || h[6] != 0 || h[7] > 15 || binary.LittleEndian.Uint32(h[8:]) != crc32.ChecksumIEEE(h[6:8]) {
		return 0, false
	}
	n, ok = xzBlock(h[xzHeader:])
	return xzHeader + n, ok
}

// xzBlock is how long the head of a block is (3.1).
func xzBlock(h []byte) (n int, ok bool) {
	if len(h) == 0 || h[0] == 0 {
		return 0, false // the index
	}
	if n = (int(h[0]) + 1) * 4; n >= len(h) || binary.LittleEndian.Uint32(h[n-4:]) != crc32.ChecksumIEEE(h[:n-4]) {
		return 0, false
	}
	return n, true
}

// xzBlocks finds the blocks of an xz file that follow the first one.
type xzBlocks struct {
	file  int // where it begins
	check int // bytes behind a block
	at    int // where the next block may begin; 0: nowhere
}

// first takes note of the head of a file at a place, which says how long the checks are.
func (x *xzBlocks) first(file int, h []byte) {
	x.file = file
	sizes := [...]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}
	x.check = sizes[h[7]]
}

// found takes note of a stream in the file. Heads and padding make the length of a block a
// multiple of four, and the file begins at a multiple of four before it.
func (x *xzBlocks) found(s expand.Stream) {
	end := int(s.At+s.Length) - x.file
	x.at = x.file + (end+3)&^3 + x.check
}

// next is where the stream of a block begins that follows the last one found.
func (x *xzBlocks) next(image []byte) (begin int, ok bool) {
	at := x.at
	if x.at = 0; at == 0 || at >= len(image) {
		return 0, false
	}
	n, ok := xzBlock(image[at:])
	return at + n, ok
}

// lzmaHead says whether a .lzma file may begin so: with the usual properties, a size of the
// dictionary that programs choose, a length or none, and the byte that is always zero.
func lzmaHead(h []byte) bool {
	if len(h) < 18 || h[0] != 0x5d || h[13] != 0 {
		return false
	}
	dictionary := binary.LittleEndian.Uint32(h[1:])
	if dictionary < 4<<10 || bits.OnesCount32(dictionary) > 2 || dictionary&(dictionary-1)<<1 != 0 && dictionary != 3<<(bits.Len32(dictionary)-2) {
		return false
	}
	length := int64(binary.LittleEndian.Uint64(h[5:]))
	return length == -1 || length > 0 && length <= 1<<31
}

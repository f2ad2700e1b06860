// Package prefix finds out how much two byte slices have in common, which is what those who
// look for matches do most of the time.
package prefix

import (
	"encoding/binary"
	"math/bits"
)

// Common is the length of the longest common prefix.
func Common(a, b []byte) int {
	if len(a) < len(b) {
		b = b[:len(a)]
	}
	n := 0
	for ; n+8 <= len(b); n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

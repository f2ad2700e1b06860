package zstdparse

import "math/bits"

// The three kinds of numbers of a sequence, in the order in which a block has their tables.
const (
	literalLengths = iota
	offsets
	matchLengths
	kinds
)

// Modes of a table (RFC 8878, 3.1.1.3.2.1).
const (
	predefined = iota
	rle
	compressed
	repeat
)

const (
	maxSymbols = 64 // of any table of sequences
	maxLog     = 9  // of their accuracy
	maxStates  = 1 << maxLog
	minMatch   = 3
)

// code is what a symbol stands for: a number from base on, by so many more bits.
type code struct {
	base  uint32
	extra uint8
}

// kind says how the numbers of a kind are coded.
type kind struct {
	symbols int
	maxLog  uint8
	codes   [maxSymbols]code
	normal  counts // the predefined table
	decode  decodeTable
	encode  encodeTable
}

// kindsOf is the format's constant tables (RFC 8878, 3.1.1.3.2.1.1 and 3.1.1.3.2.2).
var kindsOf = func() *[kinds]kind {
	k := &[kinds]kind{
		literalLengths: {symbols: 36, maxLog: 9, normal: counts{log: 6, symbols: 36}},
		offsets:        {symbols: 32, maxLog: 8, normal: counts{log: 5, symbols: 29}},
		matchLengths:   {symbols: 53, maxLog: 9, normal: counts{log: 6, symbols: 53}},
	}
	fill := func(kind, from int, base uint32, extra ...uint8) {
		for i := range from {
			k[kind].codes[i].base = base + uint32(i)
		}
		base += uint32(from)
		for i, n := range extra {
			k[kind].codes[from+i] = code{base, n}
			base += 1 << n
		}
	}
	fill(literalLengths, 16, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	fill(matchLengths, 32, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	for i := range 32 {
		k[offsets].codes[i] = code{1 << i, uint8(i)}
	}
	copy(k[literalLengths].normal.of[:], []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1})
	copy(k[offsets].normal.of[:], []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1})
	copy(k[matchLengths].normal.of[:], []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1})
	for i := range k {
		k[i].decode.build(&k[i].normal, &k[i].codes)
		k[i].encode.build(&k[i].normal)
	}
	return k
}()

// small is the codes of the lengths below 64 and 128, for both kinds.
var smallLiteral, smallMatch = func() (l [64]uint8, m [128]uint8) {
	for v := range l {
		l[v] = search(literalLengths, uint32(v))
	}
	for v := range m {
		m[v] = search(matchLengths, uint32(v))
	}
	return l, m
}()

func search(kind int, v uint32) uint8 {
	k := &kindsOf[kind]
	s := k.symbols - 1
	for k.codes[s].base > v {
		s--
	}
	return uint8(s)
}

// literalCode is the symbol of a literal length. Beyond the format's longest one there is
// a symbol that no table has.
func literalCode(v uint32) uint8 {
	if v < 64 {
		return smallLiteral[v]
	}
	return uint8(bits.Len32(v)) + 18
}

// matchCode is the symbol of a match length - minMatch.
func matchCode(v uint32) uint8 {
	if v < 128 {
		return smallMatch[v]
	}
	return uint8(bits.Len32(v)) + 35
}

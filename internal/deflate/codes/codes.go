// Package codes has the symbols of lengths and distances in deflate streams (RFC 1951, 3.2.5),
// and of the lengths of their codes (3.2.7), for those who write them and those who take them
// apart.
package codes

import "math/bits"

const (
	// Lengths is how many codes of lengths there are, Distances of distances.
	Lengths   = 29
	Distances = 30
	// Longest is the code of the longest length alone, which the one before could say as well.
	Longest = Lengths - 1

	minMatch, maxMatch = 3, 258
)

// The symbols of the lengths of codes that are no length.
const (
	Repeat    = 16 // the last length 3 to 6 times
	Zeros     = 17 // 3 to 10 zeros
	ManyZeros = 18 // 11 to 138 zeros

	// LeastSent and MostSent are how many lengths of these symbols' codes a block has.
	LeastSent = 4
	MostSent  = 19
)

// SendOrder is the order in which these lengths are sent.
var SendOrder = [MostSent]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// By code: how many bits follow it, and the least of what these are added to, as lengths less
// 3 and distances less 1. Behind the last code there is nothing; the arrays are as long as
// codes have bits, which spares checks.
var (
	LengthExtra, DistanceExtra [32]uint8
	LengthBases, DistanceBases [32]uint16
)

// ofLength are by length less 3. The longest one has the code that it shares with others.
var ofLength [maxMatch - minMatch + 1]uint8

func init() {
	fill := func(extra *[32]uint8, bases *[32]uint16, codes, each int) {
		at := 0
		for code := range codes {
			extra[code], bases[code] = uint8(max(code/each-1, 0)), uint16(at)
			at += 1 << extra[code]
		}
	}
	fill(&LengthExtra, &LengthBases, Longest, 4)
	fill(&DistanceExtra, &DistanceBases, Distances, 2)
	LengthBases[Longest] = maxMatch - minMatch
	for code := range Longest {
		for n := range 1 << LengthExtra[code] {
			ofLength[int(LengthBases[code])+n] = uint8(code)
		}
	}
}

// OfLength is the code of a length less 3 as compressors choose it; shared is that of the
// longest one where it does not have Longest.
func OfLength(length int, shared bool) int {
	if length == maxMatch-minMatch && !shared {
		return Longest
	}
	return int(ofLength[length])
}

// OfDistance is the code of a distance less 1.
func OfDistance(distance int) int {
	if distance < 4 {
		return distance
	}
	n := bits.Len(uint(distance)) - 1
	return 2*n + distance>>(n-1)&1
}

package codes

import "testing"

// TestEachLengthAndDistanceHasItsCode, by the tables of RFC 1951, 3.2.5.
func TestEachLengthAndDistanceHasItsCode(t *testing.T) {
	// Of each code the first length, and the first distance.
	lengths := []int{
		3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
	}
	distances := []int{
		1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
		8193, 12289, 16385, 24577,
	}
	if len(lengths) != Lengths || len(distances) != Distances {
		t.Fatal(Lengths, Distances)
	}
	check := func(what string, first []int, less, end int, bases *[32]uint16, extra *[32]uint8, of func(v int) int) {
		code := -1
		for v := less; v <= end; v++ {
			if code+1 < len(first) && v == first[code+1] {
				code++
			}
			base, bits := int(bases[code])+less, extra[code]
			if got := of(v - less); got != code || base != first[code] || v-base >= 1<<bits {
				t.Errorf("%s %d: code %d, want %d, from %d on, %d bits", what, v, got, code, base, bits)
			}
		}
	}
	check("length", lengths, 3, 258, &LengthBases, &LengthExtra, func(v int) int { return OfLength(v, false) })
	check("distance", distances, 1, 32768, &DistanceBases, &DistanceExtra, OfDistance)
	if code := OfLength(255, true); code != 27 || int(LengthBases[27])+1<<LengthExtra[27]-1 != 255 {
		t.Errorf("the longest one by the code of others: %d", code)
	}
}

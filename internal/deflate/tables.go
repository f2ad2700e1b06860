package deflate

var fixedLiterals, fixedDistances tree

func init() {
	var counts [16]int
	for n := range literalCodes + 2 {
		size := 8
		switch {
		case n >= 144 && n < 256:
			size = 9
		case n >= 256 && n < 280:
			size = 7
		}
		fixedLiterals.length[n] = uint16(size)
		counts[size]++
	}
	fixedLiterals.last = literalCodes + 1
	fixedLiterals.assign(&counts)
	counts = [16]int{5: distanceCodes}
	for n := range distanceCodes {
		fixedDistances.length[n] = 5
	}
	fixedDistances.last = distanceCodes - 1
	fixedDistances.assign(&counts)
}

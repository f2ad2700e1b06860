package deflate

// The codes of lengths and distances (RFC 1951, 3.2.5).
var (
	lengthExtra   = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distanceExtra = [distanceCodes]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}

	lengthCodes   [256]uint8 // by length less minMatch
	lengthBases   [29]uint8
	distanceBases [distanceCodes]uint16
	// nearCodes are by distance less 1, farCodes by an 128th of it.
	nearCodes, farCodes [256]uint8

	fixedLiterals, fixedDistances tree
)

func init() {
	at := 0
	for code := range 28 {
		lengthBases[code] = uint8(at)
		for range 1 << lengthExtra[code] {
			lengthCodes[at] = uint8(code)
			at++
		}
	}
	lengthCodes[255], lengthBases[28] = 28, 255 // the longest has a code of its own
	at = 0
	for code := range distanceBases {
		distanceBases[code] = uint16(at)
		for range 1 << distanceExtra[code] {
			if at < 256 {
				nearCodes[at] = uint8(code)
			}
			farCodes[at>>7] = uint8(code)
			at++
		}
	}
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

func distanceCode(distance uint16) int {
	if d := distance - 1; d < 256 {
		return int(nearCodes[d])
	}
	return int(farCodes[(distance-1)>>7])
}

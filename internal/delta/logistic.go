package delta

import "sync"

// Probabilities are mixed in the logistic domain, as ln(p/(1-p)) in steps of 1/256
// (Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression",
// 2005). The tables are computed with integers only: they must be the same on every
// device.
const (
	logisticMax = 2815 // 11 nats: one in 60,000

	// expStep is e^(-1/256) * 2^32.
	expStep = 4278222827
)

type logisticTables struct {
	squash  [2*logisticMax + 1]uint16 // 65536 * p of a logistic value + logisticMax
	stretch [4096]int16               // logistic value of p in 4096
	recip   [1024]uint32              // 65536 / (n + 1.5): how far a counter moves
}

var logistic = sync.OnceValue(func() *logisticTables {
	t := new(logisticTables)
	e := uint64(1) << 32 // e^(-x/256) * 2^32
	for x := 0; x <= logisticMax; x++ {
		p := (uint64(1) << 48) / (uint64(1)<<32 + e)
		p = min(max(p, 1), 65535)
		t.squash[logisticMax+x] = uint16(p)
		t.squash[logisticMax-x] = uint16(65536 - p)
		e = e * expStep >> 32
	}
	x := -logisticMax
	for p := range t.stretch {
		for x < logisticMax && int(t.squash[x+logisticMax]) < p*16+8 {
			x++
		}
		t.stretch[p] = int16(x)
	}
	for n := range t.recip {
		t.recip[n] = uint32(65536 * 2 / (2*n + 3))
	}
	return t
})

func squash(x int32, t *logisticTables) uint32 {
	x = min(max(x, -logisticMax), logisticMax)
	return uint32(t.squash[x+logisticMax])
}

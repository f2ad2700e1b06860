package topics

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Buckets is the number of buckets and the unit of shares: parts per million.
const Buckets = 1_000_000

// Bucket is a device's fixed place in [0, Buckets): the first 8 bytes,
// big-endian and unsigned, of SHA-256("groundswell/bucket/" + device id),
// modulo Buckets.
func Bucket(device string) int64 {
	sum := sha256.Sum256([]byte("groundswell/bucket/" + device))
	return int64(binary.BigEndian.Uint64(sum[:8]) % Buckets)
}

// Position is a device's place in one rollout: (bucket - offset) mod Buckets,
// never negative. A device is in the rollout once the open threshold exceeds
// its position.
func Position(bucket, offset int64) int64 {
	p := (bucket - offset) % Buckets
	if p < 0 {
		p += Buckets
	}
	return p
}

// ShareCount is how many of members devices a share (parts per million) means:
// max(1, ceil(share * members / Buckets)), and 0 when there are no members.
func ShareCount(share, members int64) int64 {
	if members <= 0 {
		return 0
	}
	return max(1, (share*members+Buckets-1)/Buckets)
}

// WaveOf returns the open wave that a position belongs to, and when a device at
// that position starts: opens_at + spread * (position - start) / width. ok is
// false while no open wave covers the position.
func WaveOf(waves []Wave, position int64) (wave Wave, start time.Time, ok bool) {
	for _, w := range waves {
		if position >= w.Start && position < w.Threshold {
			return w, w.OpensAt.Add(w.Delay(position, w.Spread())), true
		}
	}
	return Wave{}, time.Time{}, false
}

// Delay is the part of spread that a position waits: spread * (position -
// start) / width. A position outside the wave gets the nearer end.
func (w Wave) Delay(position int64, spread time.Duration) time.Duration {
	width := w.Threshold - w.Start
	if width <= 0 {
		return 0
	}
	into := min(max(position-w.Start, 0), width)
	// Split so that a spread of years times a million does not overflow.
	return spread/time.Duration(width)*time.Duration(into) +
		spread%time.Duration(width)*time.Duration(into)/time.Duration(width)
}

// Spread is the time over which the wave's devices start.
func (w Wave) Spread() time.Duration { return time.Duration(w.SpreadSeconds) * time.Second }

// Package deflatetest has contents on which compressors and their like are tried.
package deflatetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// Contents are of many kinds, and lines and programs of these lengths, at most 128 KiB, by what
// they are. A program is the one that asks; all others are the same everywhere, and digests of
// what zlib makes of them are recorded.
func Contents(t testing.TB, lengths ...int) map[string][]byte {
	t.Helper()
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 150_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var lines []byte
	for len(lines) < 1<<17 {
		lines = fmt.Appendf(lines, "%d: the %dth line of %d\n", random.IntN(90), random.IntN(2000), random.IntN(7))
	}
	few := make([]byte, 120_000)
	for i := range few {
		few[i] = "abcd"[random.IntN(4)]
	}
	all := map[string][]byte{
		"nothing": nil, "a byte": {7}, "two bytes": {7, 7}, "three": {7, 7, 7}, "zeros": make([]byte, 200_000),
		"a program": self[:min(len(self), 500_000)], "noise": noise, "lines": lines, "four letters": few,
		"noise, then zeros": append(bytes.Clone(noise[:70_000]), make([]byte, 100_000)...),
	}
	for _, n := range lengths {
		all[fmt.Sprint("lines of ", n)] = lines[:n]
		all[fmt.Sprint("program of ", n)] = self[1<<20:][:n]
	}
	return all
}

package assemble

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/topics"
)

// interruptions of a thousand downloads; each must cost at most one block.
const interruptions = 1000

// TestAThousandInterruptions by the network, of the process and of the power, over real
// HTTP: what arrives is the artifact, and no interruption costs more than the block, or
// the delta's segment, that was on its way.
func TestAThousandInterruptions(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 2026))
	old := slices.Concat(noise(1, 1<<20), text(2, 1<<19))
	data := slices.Concat(old[:300_000], text(3, 1<<19), old[300_000:], noise(4, 100_000))
	for i := 1 << 20; i < len(data); i += 20_000 {
		data[i]++
	}
	o := newOrigin(t)
	a := o.release(data, true)
	o.delta(&a, old, data, encode(t, old, data, delta.Zstd))
	undisturbed := newDevice(t, o.URL)
	undisturbed.must(a, data)
	needed := undisturbed.last.Received()

	for done := 0; done < interruptions/fewer; {
		d := newDevice(t, o.URL)
		received, happened := int64(0), 0
		for finished := false; !finished; {
			ctx, cancel := context.WithCancel(t.Context())
			o.cutAfter(random.Int64N(200_000))
			stop := random.Int64N(int64(len(data)))
			killed := false
			kill := random.IntN(2) == 0
			var last topics.Transfer
			err := d.Artifact(ctx, a, d.path, func(have int64, transfer topics.Transfer) {
				if last = transfer; kill && have >= stop && !killed {
					killed = true
					happened++
					cancel()
				}
			})
			cancel()
			happened += o.uncut()
			received += last.Received()
			switch {
			case err == nil:
				finished = true
			case !errors.Is(err, context.Canceled):
				t.Fatal(err)
			case random.IntN(2) == 0:
				tear(t, d.path, random)
			}
		}
		d.holds(data)
		if most := needed + int64(happened)*4*int64(block.Normal(int64(len(data)))); received > most {
			t.Fatalf("%d bytes were received with %d interruptions, %d are needed", received, happened, needed)
		}
		done += happened
	}
}

// tear leaves behind the file what a power cut leaves of a write.
func tear(t *testing.T, path string, random *rand.Rand) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(noise(byte(random.IntN(256)), random.IntN(100_000))); err != nil {
		t.Fatal(err)
	}
}

package deflate

import "testing"

func BenchmarkWriter(b *testing.B) {
	content, w := contents(b)["a program"], &Writer{}
	var out []byte
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if err := w.Reset(Way{Gzip, 9, 0}); err != nil {
			b.Fatal(err)
		}
		out = w.Finish(w.Write(out[:0], content))
	}
}

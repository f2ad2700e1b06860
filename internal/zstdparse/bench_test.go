package zstdparse

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// What a device does with an image: MB/s are of content.
func BenchmarkReader(b *testing.B) { bench(b, true) }

func BenchmarkWriter(b *testing.B) { bench(b, false) }

func bench(b *testing.B, reads bool) {
	content := program(b, 6_000_000)
	for _, args := range [][]string{{"-3"}, {"-19"}, {"-19", "--long=27"}} {
		b.Run(fmt.Sprint(args), func(b *testing.B) {
			frame := zstd(b, content, true, args...)
			var back backed
			var r Reader
			var w Writer
			if err := back.all(&r, bytes.NewReader(frame)); err != nil {
				b.Fatal(err)
			}
			var out []byte
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				var err error
				if reads {
					r.Reset(bytes.NewReader(frame), &back)
					_, err = io.Copy(io.Discard, onlyReader{&r})
				} else {
					w.Reset()
					out, err = w.Write(out[:0], back.form)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

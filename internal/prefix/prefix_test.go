package prefix

import (
	"bytes"
	"testing"
)

func TestCommon(t *testing.T) {
	for length := range 40 {
		a := bytes.Repeat([]byte{7}, length)
		for _, longer := range []int{0, 1, 8, 20} {
			b := bytes.Repeat([]byte{7}, length+longer)
			if n, m := Common(a, b), Common(b, a); n != length || m != length {
				t.Errorf("%d bytes and %d: %d and %d", length, len(b), n, m)
			}
		}
		for at := range length {
			b := bytes.Clone(a)
			b[at] = 8
			if n := Common(a, b); n != at {
				t.Errorf("%d bytes, of which the one at %d is another: %d", length, at, n)
			}
		}
	}
}

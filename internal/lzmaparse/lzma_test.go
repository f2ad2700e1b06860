package lzmaparse

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

type mem struct{ b []byte }

func (m *mem) ReadAt(p []byte, at int64) (int, error) { return copy(p, m.b[at:]), nil }
func (m *mem) WriteAt(p []byte, at int64) (int, error) {
	if n := int(at) + len(p); n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	return copy(m.b[at:], p), nil
}

func roundTrip(t *testing.T, stream []byte, kind Kind) []byte {
	t.Helper()
	var r Reader
	form := &mem{}
	src := bytes.NewReader(stream)
	begin := time.Now()
	r.Reset(src, kind, form)
	buffer := make([]byte, 64<<10)
	for {
		n, err := r.Read(buffer)
		form.b = append(form.b, buffer[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	used := len(stream) - src.Len()
	t.Log("read", time.Since(begin), len(form.b))
	var w Writer
	begin = time.Now()
	w.Reset(kind, &mem{})
	var out []byte
	var err error
	for at := 0; at < len(form.b); {
		n := min(len(form.b)-at, 4097)
		if out, err = w.Write(out, form.b[at:at+n]); err != nil {
			t.Fatal(err)
		}
		at += n
	}
	if out, err = w.Finish(out); err != nil {
		t.Fatal(err)
	}
	t.Log("write", time.Since(begin), used)
	if !bytes.Equal(out, stream[:len(out)]) || kind == LZMA2 && len(out) != used {
		t.Fatal("other bytes", len(out), used)
	}
	return form.b
}

func TestKernel(t *testing.T) {
	for _, n := range []string{"old", "new"} {
		b, _ := os.ReadFile("/tmp/w/pl." + n + ".xz")
		f := roundTrip(t, b[24:], LZMA2)
		os.WriteFile("/tmp/w/lz/form."+n, f, 0o644)
	}
}

func TestAlone(t *testing.T) {
	for _, args := range [][]string{{"-6"}, {"-9e"}, {"-0"}} {
		c := exec.Command("xz", append([]string{"--format=lzma", "-c"}, args...)...)
		c.Stdin, _ = os.Open("/tmp/w/pairs2/uefi.old")
		b, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, b, LZMA)
	}
}

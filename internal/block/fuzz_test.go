package block

import (
	"bytes"
	"testing"
)

// FuzzRead: what is read is what was written, and nothing else is read.
func FuzzRead(f *testing.F) {
	x := indexOf(f, noise(1, 200_000))
	f.Add(x.Bytes(), x.Length)
	f.Add([]byte(magic), int64(1))
	f.Fuzz(func(t *testing.T, raw []byte, length int64) {
		x, err := Read(raw, length)
		if err == nil && !bytes.Equal(x.Bytes(), raw) {
			t.Error("read as another one")
		}
	})
}

// FuzzUnpack: whatever is unpacked is the block.
func FuzzUnpack(f *testing.F) {
	data := bytes.Repeat([]byte("firmware "), 500)
	f.Add(packer(f).Pack(nil, data))
	f.Add(packer(f).Pack(nil, make([]byte, MaxBlock)))
	b, u := blockOf(data), unpacker(f)
	f.Fuzz(func(t *testing.T, packed []byte) {
		if got, err := u.Unpack(nil, b, packed); err == nil && !bytes.Equal(got, data) {
			t.Error("unpacked as something else")
		}
	})
}

// FuzzReadTable: no block of a table lies outside of it.
func FuzzReadTable(f *testing.F) {
	x := indexOf(f, noise(1, 200_000))
	f.Add(NewTable(make([]int, len(x.Blocks))).Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		table, err := ReadTable(raw, x)
		if err != nil {
			return
		}
		for i, b := range x.Blocks {
			if from, to := table.Range(i); from < 0 || to <= from || to > table.Length() || to-from > int64(MaxPacked(b.Length)) {
				t.Errorf("block %d at [%d, %d)", i, from, to)
			}
		}
	})
}

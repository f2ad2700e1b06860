package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestTornWriteLeavesAGeneration(t *testing.T) {
	dir := t.TempDir()
	f := NewFile(filepath.Join(dir, "f"))
	for i := range 3 {
		if err := f.Save(fmt.Appendf(nil, "body %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if err := os.WriteFile(filepath.Join(dir, "f"), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		body, older, err := NewFile(filepath.Join(dir, "f")).Load()
		if err != nil || !older || string(body) != "body 1" {
			t.Fatalf("cut at %d: %q, %v, %v", n, body, older, err)
		}
	}
	// A torn newest must never push out the whole old one.
	g := NewFile(filepath.Join(dir, "f"))
	if _, _, err := g.Load(); err != nil {
		t.Fatal(err)
	}
	if err := g.Save([]byte("body 3")); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(dir, "f"))
	if body, older, err := NewFile(filepath.Join(dir, "f")).Load(); err != nil || !older || string(body) != "body 1" {
		t.Fatalf("got %q, %v, %v", body, older, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(1, []byte(`{"epoch":1}`)))
	f.Add([]byte(magic + " 1 2 3\nxx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decode(data)
		if err != nil {
			return
		}
		if !bytes.Equal(c.body, data[len(data)-len(c.body):]) {
			t.Fatal("another body")
		}
		var r Record
		_ = json.Unmarshal(c.body, &r) // must not panic
	})
}

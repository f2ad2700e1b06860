package pack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	mcu    = bytes.Repeat([]byte("mcu "), 1000)
	system = bytes.Repeat([]byte("system "), 5000)
)

func member(name, version string, data []byte) Member {
	sum := sha256.Sum256(data)
	return Member{Name: name, Version: version, SHA256: hex.EncodeToString(sum[:]), Length: int64(len(data))}
}

func members() []Member {
	return []Member{member("mcu", "2.1.0", mcu), member("system", "7.0.0", system)}
}

func write(t testing.TB, list []Member, data map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, list, func(m Member) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data[m.Name])), nil
	}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var contents = map[string][]byte{"mcu": mcu, "system": system}

func TestWhatWasWrittenIsRead(t *testing.T) {
	raw := write(t, members(), contents)
	if again := write(t, members(), contents); !bytes.Equal(raw, again) {
		t.Error("the same members make another pack")
	}
	for _, padding := range []int{0, 1, 10 << 10, maxPadding} {
		got := map[string][]byte{}
		index, err := Read(bytes.NewReader(append(raw[:len(raw):len(raw)], make([]byte, padding)...)), func(m Member, body io.Reader) (err error) {
			got[m.Name], err = io.ReadAll(body)
			return err
		})
		if err != nil || fmt.Sprint(index.Members) != fmt.Sprint(members()) || !bytes.Equal(got["mcu"], mcu) || !bytes.Equal(got["system"], system) {
			t.Errorf("padding %d: %+v, %v", padding, index, err)
		}
	}
	if _, err := Read(bytes.NewReader(raw), nil); err != nil {
		t.Errorf("checked only: %v", err)
	}
	stop := errors.New("stop")
	if _, err := Read(bytes.NewReader(raw), func(Member, io.Reader) error { return stop }); err != stop {
		t.Errorf("error of take: %v", err)
	}
}

// TestTarMakesPacks: the format is no more than it says.
func TestTarMakesPacks(t *testing.T) {
	dir := t.TempDir()
	index, err := json.Marshal(Index{Schema: 1, Members: members()})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{IndexName: index, "mcu": mcu, "system": system} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"gnu", "ustar"} {
		cmd := exec.Command("tar", "--format="+format, "-cf", "pack", IndexName, "mcu", "system")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		raw, err := os.ReadFile(filepath.Join(dir, "pack"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(bytes.NewReader(raw), nil); err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

func TestWriteRefusesWhatReadWould(t *testing.T) {
	twice := append(members(), member("mcu", "1.0.0", mcu))
	long := member("mcu", "1.0.0", mcu)
	long.Length++
	short := member("mcu", "1.0.0", mcu)
	short.Length--
	other := member("mcu", "1.0.0", system)
	other.Length = int64(len(mcu))
	for want, list := range map[string][]Member{
		"members: must be": nil, "members[2].name": twice, "missing": {long}, "more of it": {short}, "SHA-256": {other},
		"members[0].version": {member("mcu", "new", mcu)}, "members[0].name": {member("../mcu", "1.0.0", mcu)},
	} {
		err := Write(io.Discard, list, func(m Member) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(contents[m.Name])), nil
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// entry is one file of an archive that is made by hand.
type entry struct {
	tar.Header
	body []byte
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := e.Header
		if h.Size == 0 {
			h.Size = int64(len(e.body))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func file(name string, body []byte) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body}
}

func index(change func(*Index)) entry {
	x := Index{Schema: 1, Members: members()}
	if change != nil {
		change(&x)
	}
	raw, _ := json.Marshal(x) // never fails
	return file(IndexName, raw)
}

func TestOnlyPacksAreRead(t *testing.T) {
	good := write(t, members(), contents)
	flipped := bytes.Clone(good)
	flipped[bytes.Index(flipped, []byte("system system"))] ^= 1
	pax := file("mcu", mcu)
	pax.Format, pax.PAXRecords = tar.FormatPAX, map[string]string{"comment": "x"}
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"nothing":              {nil, IndexName},
		"no archive":           {bytes.Repeat([]byte("x"), 2000), IndexName},
		"an empty archive":     {archive(t), IndexName},
		"no index":             {archive(t, file("mcu", mcu), file("system", system)), "stands where group.json belongs"},
		"index is no JSON":     {archive(t, file(IndexName, []byte("{")), file("mcu", mcu)), IndexName},
		"text after the index": {archive(t, file(IndexName, append(index(nil).body, '{')), file("mcu", mcu)), "text after"},
		"too large an index":   {archive(t, file(IndexName, append(index(nil).body, bytes.Repeat([]byte(" "), MaxIndex)...))), "more than"},
		"not UTF-8":            {archive(t, file(IndexName, []byte("{\"schema\":1,\"x\":\"\xff\"}"))), "UTF-8"},
		"of the future":        {archive(t, index(func(x *Index) { x.Schema = 2 })), "schema"},
		"no schema":            {archive(t, index(func(x *Index) { x.Schema = 0 })), "schema"},
		"no members":           {archive(t, index(func(x *Index) { x.Members = nil })), "members"},
		"a name twice":         {archive(t, index(func(x *Index) { x.Members[1].Name = "mcu" })), "members[1].name"},
		"a name is a path":     {archive(t, index(func(x *Index) { x.Members[0].Name = "../mcu" })), "members[0].name"},
		"no digest":            {archive(t, index(func(x *Index) { x.Members[0].SHA256 = "" })), "members[0].sha256"},
		"no length":            {archive(t, index(func(x *Index) { x.Members[0].Length = 0 })), "members[0].length"},
		"negative length":      {archive(t, index(func(x *Index) { x.Members[0].Length = -1 })), "members[0].length"},
		"too long":             {archive(t, index(func(x *Index) { x.Members[0].Length = 1 << 60 })), "members[0].length"},
		"a member is missing":  {archive(t, index(nil), file("mcu", mcu)), "system"},
		"in another order":     {archive(t, index(nil), file("system", system), file("mcu", mcu)), "stands where mcu belongs"},
		"one too many":         {archive(t, index(nil), file("mcu", mcu), file("system", system), file("x", nil)), "follows the last"},
		"another length":       {archive(t, index(nil), file("mcu", mcu[1:])), "instead of"},
		"another digest":       {archive(t, index(nil), file("mcu", system[:len(mcu)]), file("system", system)), "SHA-256"},
		"a bit flipped":        {flipped, "SHA-256"},
		"a part":               {good[:len(good)/2], "member"},
		"a link":               {archive(t, index(nil), entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "mcu", Linkname: "/etc/shadow"}}), "not a plain file"},
		"a directory":          {archive(t, index(nil), entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: "mcu/"}}), "not a plain file"},
		"extended headers":     {archive(t, index(nil), pax), "not a plain file"},
		"something behind":     {append(bytes.Clone(good), 'x'), "follows its end"},
		"too many zeros":       {append(bytes.Clone(good), make([]byte, maxPadding+1)...), "follows its end"},
	} {
		if _, err := Read(bytes.NewReader(c.raw), nil); !errors.Is(err, ErrPack) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// FuzzRead: whatever comes, what take gets is what the index says, and an error else.
func FuzzRead(f *testing.F) {
	small := []Member{member("a", "1.0.0", []byte("x"))}
	f.Add(write(f, small, map[string][]byte{"a": []byte("x")}))
	f.Add(archive(f, file(IndexName, []byte(`{"schema":1,"members":[]}`))))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var seen []Member
		index, err := Read(bytes.NewReader(raw), func(m Member, body io.Reader) error {
			data, err := io.ReadAll(body)
			if err == nil && int64(len(data)) != m.Length {
				t.Fatalf("%d bytes of %d", len(data), m.Length)
			}
			seen = append(seen, member(m.Name, m.Version, data))
			return nil
		})
		if err != nil {
			if !errors.Is(err, ErrPack) {
				t.Fatal(err)
			}
			return
		}
		if fmt.Sprint(seen) != fmt.Sprint(index.Members) {
			t.Fatalf("took %v of %v", seen, index.Members)
		}
	})
}

// Package pack is the artifact of a group of components: one file that holds an artifact
// for each member, so that a group has one release, one digest and one attempt, like any
// component.
//
// A pack is a plain tar archive of regular files. The first is group.json, the Index; the
// others follow in the order of the Index, each under its member's name. Nothing else is
// in it: no directories, links, sparse files or extended headers, and nothing but zeros
// after its end. `tar -cf FILE group.json mcu system` makes one.
//
// The pack's own digest is what the release role has signed; the digests in the Index say
// which bytes of it belong to whom, and are checked as well, because a group writes no
// member before all of them are known to be whole.
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
	"unicode/utf8"

	"groundswell/topics"
)

const (
	// IndexName is the first file of a pack.
	IndexName = "group.json"
	// MaxIndex is the largest Index in bytes.
	MaxIndex = 16 << 10
	// MaxMembers is how many members a group may have.
	MaxMembers = topics.MaxComponents
	// maxPadding is how many zeros may follow the end: tar(1) pads to a record, which is
	// 10 KiB unless it is told otherwise.
	maxPadding = 1 << 20
)

// ErrPack: the file is not a pack.
var ErrPack = errors.New("not a pack")

// Index says what is in a pack.
type Index struct {
	Schema int `json:"schema"` // topics.Schema; a higher one is refused
	// Members in the order in which they are activated.
	Members []Member `json:"members"`
}

// Member is one artifact in a pack.
type Member struct {
	Name    string `json:"name"`
	Version string `json:"version"` // semver
	SHA256  string `json:"sha256"`  // lower-case hex
	Length  int64  `json:"length"`  // bytes, 1 to topics.MaxArtifact
}

// Validate names the field that is wrong.
func (x Index) Validate() error {
	switch {
	case x.Schema > topics.Schema:
		return fmt.Errorf("schema: %w: %d, known up to %d", topics.ErrSchema, x.Schema, topics.Schema)
	case x.Schema < 1:
		return errors.New("schema: must be at least 1")
	case len(x.Members) == 0 || len(x.Members) > MaxMembers:
		return fmt.Errorf("members: must be 1 to %d", MaxMembers)
	}
	seen := map[string]bool{}
	for i, m := range x.Members {
		at := fmt.Sprintf("members[%d].", i)
		if err := errors.Join(
			topics.CheckID(at+"name", m.Name), topics.CheckVersion(at+"version", m.Version), topics.CheckDigest(at+"sha256", m.SHA256),
		); err != nil {
			return err
		}
		if m.Length < 1 || m.Length > topics.MaxArtifact {
			return fmt.Errorf("%slength: must be from 1 to %d", at, int64(topics.MaxArtifact))
		}
		if seen[m.Name] {
			return fmt.Errorf("%sname: %q stands twice", at, m.Name)
		}
		seen[m.Name] = true
	}
	return nil
}

// Write writes a pack of members, in that order, whose bytes open brings. The same
// members make the same pack, byte by byte. It fails when what open brings is not what
// the member says.
func Write(w io.Writer, members []Member, open func(Member) (io.ReadCloser, error)) error {
	index := Index{Schema: topics.Schema, Members: members}
	if err := index.Validate(); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	raw = append(raw, '\n')
	if len(raw) > MaxIndex {
		return fmt.Errorf("write pack: %s would have %d bytes, at most %d", IndexName, len(raw), MaxIndex)
	}
	t := tar.NewWriter(w)
	if err := header(t, IndexName, int64(len(raw))); err != nil {
		return err
	}
	if _, err := t.Write(raw); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	for _, m := range members {
		if err := header(t, m.Name, m.Length); err != nil {
			return err
		}
		body, err := open(m)
		if err != nil {
			return fmt.Errorf("write pack: member %s: %w", m.Name, err)
		}
		d := &digested{from: body, left: m.Length, hash: sha256.New()}
		_, err = io.Copy(t, d)
		if err := errors.Join(err, d.end(m.SHA256), body.Close()); err != nil {
			return fmt.Errorf("write pack: member %s: %w", m.Name, err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	return nil
}

func header(t *tar.Writer, name string, size int64) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR}
	if size >= 8<<30 { // more than ustar can say
		h.Format = tar.FormatGNU
	}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("write pack: %s: %w", name, err)
	}
	return nil
}

// Read reads a pack from its beginning to its end, and calls take for each member in
// order; nil: only checks. What take does not read is read for it. Only when Read returns
// nil were all members whole; an error of the pack's own is ErrPack, one of take is
// returned as it is.
func Read(r io.Reader, take func(m Member, body io.Reader) error) (Index, error) {
	t := tar.NewReader(r)
	index, err := readIndex(t)
	if err != nil {
		return Index{}, err
	}
	for _, m := range index.Members {
		if err := next(t, m.Name, m.Length); err != nil {
			return Index{}, err
		}
		d := &digested{from: t, left: m.Length, hash: sha256.New(), kind: ErrPack}
		if take != nil {
			if err := take(m, d); err != nil {
				return Index{}, err
			}
		}
		if _, err := io.Copy(io.Discard, d); err != nil {
			return Index{}, fmt.Errorf("member %s: %w", m.Name, err)
		}
		if err := d.end(m.SHA256); err != nil {
			return Index{}, fmt.Errorf("%w: member %s: %w", ErrPack, m.Name, err)
		}
	}
	if h, err := t.Next(); err == nil {
		return Index{}, fmt.Errorf("%w: %q follows the last member", ErrPack, h.Name)
	} else if err != io.EOF {
		return Index{}, fmt.Errorf("%w: after the last member: %w", ErrPack, err)
	}
	return index, zeros(r)
}

func readIndex(t *tar.Reader) (Index, error) {
	if err := next(t, IndexName, -1); err != nil {
		return Index{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(t, MaxIndex+1))
	if err != nil {
		return Index{}, fmt.Errorf("%w: %s: %w", ErrPack, IndexName, err)
	}
	if len(raw) > MaxIndex {
		return Index{}, fmt.Errorf("%w: %s has more than %d bytes", ErrPack, IndexName, MaxIndex)
	}
	if !utf8.Valid(raw) {
		return Index{}, fmt.Errorf("%w: %s is not UTF-8", ErrPack, IndexName)
	}
	var index Index
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&index); err != nil {
		return Index{}, fmt.Errorf("%w: %s: %w", ErrPack, IndexName, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Index{}, fmt.Errorf("%w: %s has text after its end", ErrPack, IndexName)
	}
	if err := index.Validate(); err != nil {
		return Index{}, fmt.Errorf("%w: %s: %w", ErrPack, IndexName, err)
	}
	return index, nil
}

// next goes on to the next file, which is to be that one; -1: of any size.
func next(t *tar.Reader, name string, size int64) error {
	h, err := t.Next()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrPack, name, err)
	}
	switch {
	case h.Typeflag != tar.TypeReg || h.Format != tar.FormatUSTAR && h.Format != tar.FormatGNU:
		return fmt.Errorf("%w: %q is not a plain file", ErrPack, h.Name)
	case h.Name != name:
		return fmt.Errorf("%w: %q stands where %s belongs", ErrPack, h.Name, name)
	case size >= 0 && h.Size != size:
		return fmt.Errorf("%w: %s has %d bytes instead of %d", ErrPack, name, h.Size, size)
	}
	return nil
}

// zeros reads to the end, and wants nothing but zeros there.
func zeros(r io.Reader) error {
	buf := make([]byte, 4<<10)
	for total := 0; ; {
		n, err := r.Read(buf)
		total += n
		if len(bytes.Trim(buf[:n], "\x00")) > 0 || total > maxPadding {
			return fmt.Errorf("%w: something follows its end", ErrPack)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPack, err)
		}
	}
}

// digested reads left bytes, and hashes them.
type digested struct {
	from io.Reader
	left int64
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
	kind error // of errors of from; nil: as they are
}

func (d *digested) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	n, err := d.from.Read(p[:min(int64(len(p)), d.left)])
	_, _ = d.hash.Write(p[:n]) // never fails
	d.left -= int64(n)
	if err == io.EOF && d.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF && d.kind != nil {
		err = fmt.Errorf("%w: %w", d.kind, err)
	}
	return n, err
}

// end is nil when all was read that there is, and has that digest.
func (d *digested) end(digest string) error {
	if d.left > 0 {
		return fmt.Errorf("%d bytes are missing", d.left)
	}
	if n, err := d.from.Read(make([]byte, 1)); n > 0 || err != nil && err != io.EOF {
		return errors.Join(errors.New("there is more of it"), err)
	}
	if got := hex.EncodeToString(d.hash.Sum(nil)); got != digest {
		return fmt.Errorf("has SHA-256 %.16s instead of %.16s", got, digest)
	}
	return nil
}

package assemble

import (
	"context"
	"crypto/sha256"
	"io"
	"os"

	"groundswell/agent/fetch"
	"groundswell/topics"
)

// shelf keeps documents about an artifact beside its file, so that none is fetched again
// after an interruption. Losing one costs only its bytes, so nothing is synchronised,
// and errors of the disk are none here. What has no digest of its own stands behind one, by
// which a power cut shows.
type shelf struct {
	client *fetch.Client
	path   string // of the artifact's file
}

// document is a document by its digest, and how many bytes were fetched for it.
func (s shelf) document(ctx context.Context, d topics.Document) (raw []byte, fetched int64, err error) {
	if raw := s.kept(d); raw != nil {
		return raw, 0, nil
	}
	if raw, err = s.client.Document(ctx, d); err != nil {
		return nil, 0, err
	}
	s.keep(d, raw)
	return raw, d.Length, nil
}

// kept is a document that is there; nil: it is not.
func (s shelf) kept(d topics.Document) []byte {
	if raw := s.read(s.documentPath(d), d.Length); int64(len(raw)) == d.Length && digestOf(raw) == d.SHA256 {
		return raw
	}
	return nil
}

func (s shelf) keep(d topics.Document, raw []byte) { s.write(s.documentPath(d), raw) }

func (s shelf) documentPath(d topics.Document) string { return s.path + "." + d.SHA256[:16] }

// askForIndex notes that a delta was asked for that makes the block index, and askedForIndex
// is whether one was: it is done without after that.
func (s shelf) askForIndex() { s.write(s.askedPath(), nil) }

func (s shelf) askedForIndex() bool {
	_, err := os.Stat(s.askedPath())
	return err == nil
}

func (s shelf) askedPath() string { return s.path + ".asked" }

// table is how long the packed blocks are.
func (s shelf) table(ctx context.Context, artifact string, limit int64, accept func([]byte) error) (raw []byte, fetched int64, err error) {
	if raw := s.checked(s.tablePath(), limit); raw != nil && accept(raw) == nil {
		return raw, 0, nil
	}
	err = s.client.Table(ctx, artifact, limit, func(data []byte) error {
		fetched += int64(len(data))
		raw = data
		return accept(data)
	})
	if err != nil {
		return nil, fetched, err
	}
	s.writeChecked(s.tablePath(), raw)
	return raw, fetched, nil
}

func (s shelf) tablePath() string { return s.path + ".table" }

func (s shelf) forgetTable() { _ = os.Remove(s.tablePath()) }

func (s shelf) headPath(o fetch.Object) string { return s.path + ".head-" + o.Tag[:16] }

// unitsPath is where the units of a delta that looks through compression are kept.
func (s shelf) unitsPath(o fetch.Object) string { return s.path + ".units-" + o.Tag[:16] }

// begunPath is where the unit is kept that was interrupted.
func (s shelf) begunPath() string { return s.path + ".begun" }

func (s shelf) forgetHead(o fetch.Object) { _ = os.Remove(s.headPath(o)) }

// writeChecked writes what checked reads.
func (s shelf) writeChecked(path string, raw []byte) {
	sum := sha256.Sum256(raw)
	s.write(path, append(sum[:], raw...))
}

// checked is what a file holds behind its digest, at most limit bytes; nil if it does not.
func (s shelf) checked(path string, limit int64) []byte {
	raw := s.read(path, sha256.Size+limit)
	if len(raw) < sha256.Size || sha256.Sum256(raw[sha256.Size:]) != [sha256.Size]byte(raw[:sha256.Size]) {
		return nil
	}
	return raw[sha256.Size:]
}

func (s shelf) write(path string, raw []byte) { _ = os.WriteFile(path, raw, 0o600) }

// read is what a file holds, at most limit bytes; nil if it cannot be read.
func (s shelf) read(path string, limit int64) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil || int64(len(raw)) > limit {
		return nil
	}
	return raw
}

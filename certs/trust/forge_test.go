package trust_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"groundswell/certs/trust"
)

type object = map[string]any

// edit changes the signed part of metadata and leaves the signatures as they
// are.
func edit(t testing.TB, raw []byte, change func(signed object)) []byte {
	t.Helper()
	var doc object
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	change(doc["signed"].(object))
	return must[[]byte](t)(json.Marshal(doc))
}

// forge changes the signed part and signs it anew.
func forge[T metadata.Roles](t testing.TB, raw []byte, change func(signed object), keys ...*trust.Key) []byte {
	t.Helper()
	return must[[]byte](t)(trust.Forge[T](edit(t, raw, change), keys...))
}

// set changes one field of the signed part; a path of names leads to it.
func set(value any, path ...string) func(object) {
	return func(o object) {
		for _, name := range path[:len(path)-1] {
			o = o[name].(object)
		}
		if value == nil {
			delete(o, path[len(path)-1])
		} else {
			o[path[len(path)-1]] = value
		}
	}
}

func both(changes ...func(object)) func(object) {
	return func(o object) {
		for _, change := range changes {
			change(o)
		}
	}
}

func nothing(object) {}

func rfc3339(at time.Time) string { return at.Format(time.RFC3339) }

// signatureOf is the first signature as JSON.
func signatureOf(t testing.TB, raw []byte) json.RawMessage {
	t.Helper()
	var doc struct{ Signatures []json.RawMessage }
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc.Signatures) == 0 {
		t.Fatalf("%d signatures, %v", len(doc.Signatures), err)
	}
	return doc.Signatures[0]
}

func digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func marshal(v any) ([]byte, error) { return json.Marshal(v) }

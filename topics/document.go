package topics

import "strconv"

// Document pins a document that is fetched as artifacts are, by its digest.
type Document struct {
	Length int64  `json:"length"` // bytes
	SHA256 string `json:"sha256"` // lower-case hex
}

func (d Document) validate(field string, limit int64) error {
	if err := checkLength(field+".length", d.Length, limit); err != nil {
		return err
	}
	return CheckDigest(field+".sha256", d.SHA256)
}

// MaxDeltaIndex is the largest DeltaIndex in bytes.
const MaxDeltaIndex = 128 << 10

// DeltaIndex lists the deltas that make one artifact: a document that a manifest's
// entry pins. A device takes the one that was made from what it runs, and does
// without if there is none.
type DeltaIndex struct {
	Schema   int     `json:"schema"`
	Artifact string  `json:"artifact"` // SHA-256 of what all of them make, lower-case hex
	Deltas   []Delta `json:"deltas"`
	// Expanded are those that look through compression (2026-11). A device that knows
	// them takes such a one if it has the room that it needs, else that of Deltas. Absent:
	// there are none.
	Expanded []Delta `json:"expanded,omitempty"`
}

// Delta makes an artifact from another one. It is fetched as artifacts are.
type Delta struct {
	From string `json:"from"` // SHA-256 of the artifact that it was made from, lower-case hex
	Document
}

// Validate returns a FieldError unless x can be acted upon as it stands.
func (x DeltaIndex) Validate() error {
	if err := checkSchema(x.Schema); err != nil {
		return err
	}
	if err := CheckDigest("artifact", x.Artifact); err != nil {
		return err
	}
	if err := validateDeltas("deltas", x.Deltas); err != nil {
		return err
	}
	return validateDeltas("expanded", x.Expanded)
}

func validateDeltas(field string, list []Delta) error {
	seen := map[string]bool{}
	for i, d := range list {
		at := field + "[" + strconv.Itoa(i) + "]"
		if err := CheckDigest(at+".from", d.From); err != nil {
			return err
		}
		if seen[d.From] {
			return invalid(at+".from", "stands twice")
		}
		seen[d.From] = true
		if err := d.validate(at, MaxArtifact); err != nil {
			return err
		}
	}
	return nil
}

// DecodeDeltaIndex reads and validates a delta index.
func DecodeDeltaIndex(raw []byte) (DeltaIndex, error) { return decode[DeltaIndex](raw, MaxDeltaIndex) }

// Transfer is where the bytes of an artifact came from, so far. What was sent again
// counts again, so the sum may exceed what was needed.
type Transfer struct {
	// Local are bytes of the artifact that were copied from what the device runs.
	Local int64 `json:"local,omitempty"`
	// The others are bytes that were received: of a delta, of packed blocks, of
	// the artifact as it is, of peers, and of documents about them (indexes).
	Delta  int64 `json:"delta,omitempty"`
	Packed int64 `json:"packed,omitempty"`
	Full   int64 `json:"full,omitempty"`
	Peer   int64 `json:"peer,omitempty"`
	Index  int64 `json:"index,omitempty"`
}

// Plus is t and other together.
func (t Transfer) Plus(other Transfer) Transfer {
	return Transfer{
		Local: t.Local + other.Local, Delta: t.Delta + other.Delta, Packed: t.Packed + other.Packed,
		Full: t.Full + other.Full, Peer: t.Peer + other.Peer, Index: t.Index + other.Index,
	}
}

// maxTransfer is the largest number of bytes that is believed: nobody sends the
// largest artifact a thousand times.
const maxTransfer = 1000 * MaxArtifact

// Received is how many bytes came over a network.
func (t Transfer) Received() int64 { return t.Delta + t.Packed + t.Full + t.Peer + t.Index }

func (t Transfer) validate(field string) error {
	for _, part := range []struct {
		name string
		n    int64
	}{{"local", t.Local}, {"delta", t.Delta}, {"packed", t.Packed}, {"full", t.Full}, {"peer", t.Peer}, {"index", t.Index}} {
		if part.n < 0 || part.n > maxTransfer {
			return invalid(field+"."+part.name, "must be from 0 to %d", int64(maxTransfer))
		}
	}
	return nil
}

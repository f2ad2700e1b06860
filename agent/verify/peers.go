package verify

import (
	"context"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// documents brings a document by its digest, from those who need no more trust than a
// source.
type documents func(ctx context.Context, d topics.Document) ([]byte, error)

// FromPeers is Images without any question to a source: what is held, or else what peers
// give of what the manifest pins. Nobody is asked for newer roots, which is as if the only
// source that answers knew of none; what has expired by the roots that are held, or is
// signed by newer ones, is refused as ever. Who installs what is listed so asks ImageRoots
// before that.
func (v *Verifier) FromPeers(ctx context.Context, pin topics.SnapshotPin, peers func(context.Context, topics.Document) ([]byte, error)) (trust.Images, error) {
	return v.listed(ctx, pin, documents(peers))
}

// Snapshot implements lists.
func (d documents) Snapshot(ctx context.Context, pin topics.SnapshotPin, accept func([]byte) error) error {
	return d.document(ctx, topics.Document{Length: pin.Length, SHA256: pin.SHA256}, accept)
}

// Targets implements lists.
func (d documents) Targets(ctx context.Context, pin trust.TargetsPin, accept func([]byte) error) error {
	return d.document(ctx, topics.Document{Length: pin.Length, SHA256: pin.SHA256}, accept)
}

func (d documents) document(ctx context.Context, doc topics.Document, accept func([]byte) error) error {
	raw, err := d(ctx, doc)
	if err != nil {
		return err
	}
	return accept(raw)
}

// Document is one of trust.State's Documents, for others of the site; nil: it is none of them.
// They are looked at once for each state, however often others ask.
func (v *Verifier) Document(sha256 string) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.documents == nil {
		v.documents = v.state.Documents()
	}
	return v.documents[sha256]
}

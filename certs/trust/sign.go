package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"groundswell/topics"
)

// TargetsSpec says what the next list of releases is to contain.
type TargetsSpec struct {
	Root []byte // the image root in force
	// Previous is the list in force; everything in it stays. Nil: there is
	// none yet, and the result is version 1.
	Previous []byte
	// PreviousRoot is the image root by which Previous was signed. Nil: Root.
	// It is needed once after the release keys have changed.
	PreviousRoot []byte
	Add          []ReleaseImage // none: only the expiry is renewed
	Expires      time.Time
	Now          time.Time
}

// SignTargets makes the next list of releases. Previous is verified first.
// Each key must be a release key; when the threshold needs more signatures
// than keys give, other holders add theirs by AddSignature.
func SignTargets(spec TargetsSpec, keys ...*Key) ([]byte, error) {
	raw, err := spec.sign(keys)
	if err != nil {
		return nil, fmt.Errorf("sign targets: %w", err)
	}
	return raw, nil
}

func (spec TargetsSpec) sign(keys []*Key) ([]byte, error) {
	r, err := trustedRoot(Image, spec.Root)
	if err != nil {
		return nil, err
	}
	if err := r.notExpired(spec.Now); err != nil {
		return nil, err
	}
	meta := metadata.Targets()
	meta.Signed.Version = 0
	if spec.Previous != nil {
		before := r
		if spec.PreviousRoot != nil {
			if before, err = trustedRoot(Image, spec.PreviousRoot); err != nil {
				return nil, fmt.Errorf("previous: %w", err)
			}
		}
		if _, _, err := checkTargets(before, spec.Previous); err != nil {
			return nil, fmt.Errorf("previous: %w", err)
		}
		doc, err := parse[metadata.TargetsType](spec.Previous, MaxTargets)
		if err != nil {
			return nil, fmt.Errorf("previous: %w", err)
		}
		meta = doc.meta
		meta.ClearSignatures()
	}
	meta.Signed.Version++
	meta.Signed.Expires = wholeSeconds(spec.Expires)
	for _, image := range spec.Add {
		if err := image.validate(); err != nil {
			return nil, err
		}
		if _, ok := meta.Signed.Targets[image.Path]; ok {
			return nil, fmt.Errorf("%w: %s is released already", ErrVanished, image.Path)
		}
		target, err := image.target()
		if err != nil {
			return nil, err
		}
		meta.Signed.Targets[image.Path] = target
	}
	for _, key := range keys {
		if !hasKey(r.meta, RoleTargets, key) {
			return nil, fmt.Errorf("%w: %s is no release key", ErrKey, key)
		}
	}
	return seal(meta, MaxTargets, keys...)
}

// trustedRoot reads a root that the signer holds and takes its word for the
// trust domain.
func trustedRoot(repo Repository, raw []byte) (root, error) {
	doc, err := parse[metadata.RootType](raw, MaxRoot)
	if err != nil {
		return root{}, fmt.Errorf("%s root: %w", repo, err)
	}
	var body rootBody
	if err := doc.body(&body); err != nil {
		return root{}, fmt.Errorf("%s root: %w", repo, err)
	}
	return parseRoot(body.TrustDomain, repo, raw)
}

// AddSignature adds a further holder's signature to a root or to image
// targets. rootRaw is the root in force, of either repository; for a root
// that it is to be followed by, key must be a root key of either of the two.
// It is ErrKey when the key has no business there or has signed already.
func AddSignature(rootRaw, raw []byte, key *Key) ([]byte, error) {
	signed, err := addSignature(rootRaw, raw, key)
	if err != nil {
		return nil, fmt.Errorf("add signature: %w", err)
	}
	return signed, nil
}

func addSignature(rootRaw, raw []byte, key *Key) ([]byte, error) {
	force, err := parse[metadata.RootType](rootRaw, MaxRoot)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if err := checkRoot(&force.meta.Signed); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if doc, err := parse[metadata.TargetsType](raw, MaxTargets); err == nil {
		if !hasKey(force.meta, RoleTargets, key) {
			return nil, fmt.Errorf("%w: %s is no release key", ErrKey, key)
		}
		return signMore(doc, MaxTargets, key)
	}
	doc, err := parse[metadata.RootType](raw, MaxRoot)
	if err != nil {
		return nil, err
	}
	if err := checkRoot(&doc.meta.Signed); err != nil {
		return nil, err
	}
	if !hasKey(force.meta, RoleRoot, key) && !hasKey(doc.meta, RoleRoot, key) {
		return nil, fmt.Errorf("%w: %s is no root key", ErrKey, key)
	}
	return signMore(doc, MaxRoot, key)
}

func signMore[T metadata.Roles](doc document[T], limit int, key *Key) ([]byte, error) {
	for _, s := range doc.meta.Signatures {
		if s.KeyID == key.ID() {
			return nil, fmt.Errorf("%w: %s has signed already", ErrKey, key)
		}
	}
	return seal(doc.meta, limit, key)
}

// MakeSnapshot makes the snapshot that names targets, and the pin by which
// manifests name the snapshot. version must be higher than any before.
func MakeSnapshot(targets []byte, version int64, expires time.Time, key *Key) ([]byte, topics.SnapshotPin, error) {
	doc, err := parse[metadata.TargetsType](targets, MaxTargets)
	if err != nil {
		return nil, topics.SnapshotPin{}, fmt.Errorf("make snapshot: targets: %w", err)
	}
	meta := metadata.Snapshot(wholeSeconds(expires))
	meta.Signed.Version = version
	meta.Signed.Meta = map[string]*metadata.MetaFiles{targetsFile: metaFile(targets, doc.version)}
	raw, err := seal(meta, MaxSnapshot, key)
	if err != nil {
		return nil, topics.SnapshotPin{}, fmt.Errorf("make snapshot: %w", err)
	}
	return raw, topics.SnapshotPin{Version: version, Length: int64(len(raw)), SHA256: digestOf(raw)}, nil
}

// MakeTimestamp makes the timestamp that names snapshot. version must be
// higher than any before. Devices do without it, because the manifest pins
// the snapshot; it is for those who hold no manifest, such as fleetctl.
func MakeTimestamp(snapshot []byte, version int64, expires time.Time, key *Key) ([]byte, error) {
	doc, err := parse[metadata.SnapshotType](snapshot, MaxSnapshot)
	if err != nil {
		return nil, fmt.Errorf("make timestamp: snapshot: %w", err)
	}
	meta := metadata.Timestamp(wholeSeconds(expires))
	meta.Signed.Version = version
	meta.Signed.Meta = map[string]*metadata.MetaFiles{snapshotFile: metaFile(snapshot, doc.version)}
	raw, err := seal(meta, MaxTimestamp, key)
	if err != nil {
		return nil, fmt.Errorf("make timestamp: %w", err)
	}
	return raw, nil
}

const (
	targetsFile  = "targets.json"
	snapshotFile = "snapshot.json"
)

func metaFile(raw []byte, version int64) *metadata.MetaFiles {
	sum := sha256.Sum256(raw)
	return &metadata.MetaFiles{Version: version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// SignManifest signs a cohort's manifest with a director key: the bytes that
// go out on topics.CohortManifest. The artifacts that the entries name become
// the targets of the metadata. Issued is cut to whole seconds.
func SignManifest(m topics.Manifest, expires time.Time, key *Key) ([]byte, error) {
	m.Issued = wholeSeconds(m.Issued)
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("sign manifest of %.80s: %w", m.Cohort, err)
	}
	targets := map[string]*metadata.TargetFiles{}
	for _, e := range m.Entries {
		target, err := targetOf(e)
		if err != nil {
			return nil, fmt.Errorf("sign manifest of %s: %w", m.Cohort, err)
		}
		if other, ok := targets[e.Target.Path]; ok && !other.Equal(*target) {
			return nil, fmt.Errorf("sign manifest of %s: %w", m.Cohort, malformed("two artifacts at %s", e.Target.Path))
		}
		targets[e.Target.Path] = target
	}
	raw, err := signBody(m, targets, m.Version, expires, topics.MaxManifest, key)
	if err != nil {
		return nil, fmt.Errorf("sign manifest of %s: %w", m.Cohort, err)
	}
	return raw, nil
}

func targetOf(e topics.Entry) (*metadata.TargetFiles, error) {
	digest, err := hex.DecodeString(e.Target.SHA256)
	if err != nil {
		return nil, malformed("target %s: %w", e.Target.Path, err)
	}
	return &metadata.TargetFiles{
		Length: e.Target.Length,
		Hashes: metadata.Hashes{"sha256": digest},
		Path:   e.Target.Path,
	}, nil
}

// SignAssignment signs a device's assignment with a director key: the bytes
// that go out on topics.DeviceAssignment. Issued is cut to whole seconds.
func SignAssignment(a topics.Assignment, expires time.Time, key *Key) ([]byte, error) {
	a.Issued = wholeSeconds(a.Issued)
	if err := a.Validate(); err != nil {
		return nil, fmt.Errorf("sign assignment of %.80s: %w", a.Device, err)
	}
	raw, err := signBody(a, nil, a.Version, expires, topics.MaxAssignment, key)
	if err != nil {
		return nil, fmt.Errorf("sign assignment of %s: %w", a.Device, err)
	}
	return raw, nil
}

// SignCommand signs a command with a director key: the bytes that go out on
// topics.DeviceCommand. Issued is cut to whole seconds. expires should be as
// short as the message's own expiry.
func SignCommand(c topics.Command, expires time.Time, key *Key) ([]byte, error) {
	c.Issued = wholeSeconds(c.Issued)
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("sign command for %.80s: %w", c.Device, err)
	}
	raw, err := signBody(c, nil, c.Version, expires, topics.MaxCommand, key)
	if err != nil {
		return nil, fmt.Errorf("sign command for %s: %w", c.Device, err)
	}
	return raw, nil
}

func signBody(body any, targets map[string]*metadata.TargetFiles, version int64, expires time.Time, limit int, key *Key) ([]byte, error) {
	tree, err := plain(body)
	if err != nil {
		return nil, err
	}
	meta := metadata.Targets(wholeSeconds(expires))
	meta.Signed.Version = version
	if targets != nil {
		meta.Signed.Targets = targets
	}
	meta.Signed.UnrecognizedFields = map[string]any{bodyField: tree}
	return seal(meta, limit, key)
}

package trust

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"groundswell/certs"
)

// Repository is one of the two repositories.
type Repository string

// The repositories.
const (
	Image    Repository = "image"    // which bytes are firmware
	Director Repository = "director" // who is to run what
)

// The roles that a root names. In the image repository targets is the release
// role; in the director repository it holds the director keys, and the last
// two are not used.
const (
	RoleRoot      = metadata.ROOT
	RoleTargets   = metadata.TARGETS
	RoleSnapshot  = metadata.SNAPSHOT
	RoleTimestamp = metadata.TIMESTAMP
)

var roles = []string{RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp}

// RoleKeys are the keys of a role and how many of them must sign.
type RoleKeys struct {
	Keys      []PublicKey
	Threshold int
}

// rootBody binds a root to its place: a root of the other repository, or of
// another fleet whose root keys are the same, is refused.
type rootBody struct {
	TrustDomain string     `json:"trust_domain"`
	Repository  Repository `json:"repository"`
}

// root is a root that is well formed and signed by its own threshold.
type root struct {
	document[metadata.RootType]
	raw []byte
}

// parseRoot reads a root and checks all that can be checked without another
// root: form, place, and the threshold of its own root role. Expiry is not
// looked at.
func parseRoot(trustDomain string, repo Repository, raw []byte) (root, error) {
	doc, err := parse[metadata.RootType](raw, MaxRoot)
	if err != nil {
		return root{}, fmt.Errorf("%s root: %w", repo, err)
	}
	if err := checkRoot(&doc.meta.Signed); err != nil {
		return root{}, fmt.Errorf("%s root: %w", repo, err)
	}
	if err := verify(doc.meta, RoleRoot, doc); err != nil {
		return root{}, fmt.Errorf("%s root %d by its own keys: %w", repo, doc.version, err)
	}
	if err := checkPlace(trustDomain, repo, doc); err != nil {
		return root{}, err
	}
	return root{document: doc, raw: bytes.Clone(raw)}, nil
}

// checkPlace checks that a root belongs to the trust domain and repository.
func checkPlace(trustDomain string, repo Repository, doc document[metadata.RootType]) error {
	var body rootBody
	if err := doc.body(&body); err != nil {
		return fmt.Errorf("%s root: %w", repo, err)
	}
	if body.TrustDomain != trustDomain {
		return fmt.Errorf("%s root: %w: %.80q", repo, ErrTrustDomain, body.TrustDomain)
	}
	if body.Repository != repo {
		return fmt.Errorf("%s root: %w: repository %.40q", repo, ErrKind, body.Repository)
	}
	return nil
}

// checkRoot refuses roots that could never verify anything, or that make
// go-tuf fail: a key of the wrong length panics deep inside, a threshold above
// the number of keys locks everybody out for good.
func checkRoot(signed *metadata.RootType) error {
	public := map[string]string{} // public key -> key id
	for id, key := range signed.Keys {
		if err := checkKey(id, key); err != nil {
			return err
		}
		if other, ok := public[key.Value.PublicKey]; ok {
			return malformed("keys %.16s and %.16s are the same", id, other)
		}
		public[key.Value.PublicKey] = id
	}
	for _, name := range roles {
		role := signed.Roles[name]
		if role == nil {
			return malformed("no role %s", name)
		}
		seen := map[string]bool{}
		for _, id := range role.KeyIDs {
			if signed.Keys[id] == nil {
				return malformed("role %s names key %.16s, which is not there", name, id)
			}
			if seen[id] {
				return malformed("role %s names key %.16s twice", name, id)
			}
			seen[id] = true
		}
		if role.Threshold < 1 || role.Threshold > len(role.KeyIDs) {
			return malformed("role %s wants %d of %d keys", name, role.Threshold, len(role.KeyIDs))
		}
	}
	return nil
}

func checkKey(id string, key *metadata.Key) error {
	if key.Type != metadata.KeyTypeEd25519 || key.Scheme != metadata.KeySchemeEd25519 {
		return malformed("key %.16s is not Ed25519", id)
	}
	if len(key.Value.PublicKey) != 64 || !isHex(key.Value.PublicKey) {
		return malformed("key %.16s is not 32 bytes in lower-case hex", id)
	}
	want, err := key.ID()
	if err != nil {
		return malformed("key %.16s: %w", id, err)
	}
	if id != want {
		return malformed("key %.16s is not named by its hash", id)
	}
	return nil
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// follow reads the root that comes after r: exactly the next version, signed
// by the thresholds of both.
func (r root) follow(trustDomain string, repo Repository, raw []byte) (root, error) {
	next, err := parseRoot(trustDomain, repo, raw)
	if err != nil {
		return root{}, err
	}
	if err := r.precedes(repo, next.version); err != nil {
		return root{}, err
	}
	if err := verify(r.meta, RoleRoot, next.document); err != nil {
		return root{}, fmt.Errorf("%s root %d by the keys of %d: %w", repo, next.version, r.version, err)
	}
	return next, nil
}

// precedes is nil when version is the next one.
func (r root) precedes(repo Repository, version int64) error {
	switch {
	case version <= r.version:
		return fmt.Errorf("%w: %s root %d after %d", ErrVersionRollback, repo, version, r.version)
	case version > r.version+1:
		return fmt.Errorf("%w: %s root %d after %d", ErrVersionGap, repo, version, r.version)
	}
	return nil
}

// dropped reports whether a key that r gave to the role is no longer in next.
func (r root) dropped(next root, role string) bool {
	after := next.meta.Signed.Roles[role].KeyIDs
	for _, id := range r.meta.Signed.Roles[role].KeyIDs {
		if !slices.Contains(after, id) {
			return true
		}
	}
	return false
}

// RootInfo is what a root says.
type RootInfo struct {
	Version int64
	Expires time.Time
	Roles   map[string]RoleKeys // by RoleRoot, RoleTargets, RoleSnapshot, RoleTimestamp
}

// Dropped reports whether a key that i gives to the role is no longer in next.
// After a dropped release key devices have forgotten the list of releases, and
// CheckTargets is to be called without a previous one.
func (i RootInfo) Dropped(next RootInfo, role string) bool {
	after := next.Roles[role].Keys
	return slices.ContainsFunc(i.Roles[role].Keys, func(key PublicKey) bool {
		return !slices.ContainsFunc(after, func(k PublicKey) bool { return k.id == key.id })
	})
}

func (r root) info() (RootInfo, error) {
	info := RootInfo{Version: r.version, Expires: r.expires, Roles: map[string]RoleKeys{}}
	for _, name := range roles {
		role := r.meta.Signed.Roles[name]
		keys := RoleKeys{Threshold: role.Threshold}
		for _, id := range role.KeyIDs {
			key, err := publicKeyOf(r.meta.Signed.Keys[id])
			if err != nil {
				return RootInfo{}, err
			}
			keys.Keys = append(keys.Keys, key)
		}
		info.Roles[name] = keys
	}
	return info, nil
}

// CheckRoot reads a root and checks that its own threshold signed it and that
// it belongs to the trust domain and repository. That makes it trusted only if
// it came from a trusted place, such as the operator's own disk.
func CheckRoot(trustDomain string, repo Repository, raw []byte) (RootInfo, error) {
	r, err := parseRoot(trustDomain, repo, raw)
	if err != nil {
		return RootInfo{}, err
	}
	return r.info()
}

// CheckRotation checks that raw follows old: the next version, signed by the
// thresholds of both.
func CheckRotation(trustDomain string, repo Repository, old, raw []byte) (RootInfo, error) {
	before, err := parseRoot(trustDomain, repo, old)
	if err != nil {
		return RootInfo{}, err
	}
	next, err := before.follow(trustDomain, repo, raw)
	if err != nil {
		return RootInfo{}, err
	}
	return next.info()
}

// RotationDraft is a root on its way from one holder of a root key to the next.
type RotationDraft struct {
	Old, New RootInfo
	// OldSigned and NewSigned are the keys of each root's root role that have
	// signed. The draft is a rotation when both reach their thresholds.
	OldSigned, NewSigned []PublicKey
}

// Complete reports whether CheckRotation would accept the draft.
func (d RotationDraft) Complete() bool {
	return len(d.OldSigned) >= d.Old.Roles[RoleRoot].Threshold && len(d.NewSigned) >= d.New.Roles[RoleRoot].Threshold
}

// CheckDraft reads a root that is to follow old and checks all that
// CheckRotation does, but for the number of signatures: what a holder of a
// root key looks at before signing. A signature that does not verify is
// ErrSignature, as is one of a key that is a root key of neither.
func CheckDraft(trustDomain string, repo Repository, old, raw []byte) (RotationDraft, error) {
	before, err := parseRoot(trustDomain, repo, old)
	if err != nil {
		return RotationDraft{}, err
	}
	doc, err := parse[metadata.RootType](raw, MaxRoot)
	if err != nil {
		return RotationDraft{}, fmt.Errorf("%s root: %w", repo, err)
	}
	if err := checkRoot(&doc.meta.Signed); err != nil {
		return RotationDraft{}, fmt.Errorf("%s root: %w", repo, err)
	}
	if err := checkPlace(trustDomain, repo, doc); err != nil {
		return RotationDraft{}, err
	}
	if err := before.precedes(repo, doc.version); err != nil {
		return RotationDraft{}, err
	}
	var draft RotationDraft
	if draft.Old, err = before.info(); err != nil {
		return RotationDraft{}, err
	}
	if draft.New, err = (root{document: doc}).info(); err != nil {
		return RotationDraft{}, err
	}
	draft.OldSigned = signers(before.meta, draft.Old, doc)
	draft.NewSigned = signers(doc.meta, draft.New, doc)
	for _, s := range doc.meta.Signatures {
		is := func(key PublicKey) bool { return key.id == s.KeyID }
		if !slices.ContainsFunc(draft.OldSigned, is) && !slices.ContainsFunc(draft.NewSigned, is) {
			return RotationDraft{}, fmt.Errorf("%w: %s root %d has one by %.16s that does not count", ErrSignature, repo, doc.version, s.KeyID)
		}
	}
	return draft, nil
}

// signers are the root keys of by that signed doc.
func signers(by *metadata.Metadata[metadata.RootType], info RootInfo, doc document[metadata.RootType]) []PublicKey {
	var signed []PublicKey
	alone := *by // the library counts; to ask about one key it is made the only one
	for _, key := range info.Roles[RoleRoot].Keys {
		alone.Signed.Roles = map[string]*metadata.Role{RoleRoot: {KeyIDs: []string{key.id}, Threshold: 1}}
		if alone.VerifyDelegate(RoleRoot, doc.meta) == nil {
			signed = append(signed, key)
		}
	}
	return signed
}

// RootSpec says what a root is to contain. In the director repository Snapshot
// and Timestamp stay empty: TUF wants them there, nobody uses them, and they
// become the same as Targets.
type RootSpec struct {
	TrustDomain string
	Repository  Repository
	Expires     time.Time
	Root        RoleKeys
	Targets     RoleKeys
	Snapshot    RoleKeys
	Timestamp   RoleKeys
}

// InitRoot makes version 1 of a root, signed with keys. Keys of other holders
// sign later by AddSignature; until the threshold is met nobody accepts it.
func InitRoot(spec RootSpec, keys ...*Key) ([]byte, error) {
	meta, err := spec.build(1)
	if err != nil {
		return nil, fmt.Errorf("init root: %w", err)
	}
	raw, err := sealRoot(meta, nil, keys)
	if err != nil {
		return nil, fmt.Errorf("init root: %w", err)
	}
	return raw, nil
}

// RotateRoot makes the root that follows old. It needs signatures of the
// thresholds of both; those that keys do not give come by AddSignature.
func RotateRoot(old []byte, spec RootSpec, keys ...*Key) ([]byte, error) {
	before, err := parseRoot(spec.TrustDomain, spec.Repository, old)
	if err != nil {
		return nil, fmt.Errorf("rotate root: %w", err)
	}
	meta, err := spec.build(before.version + 1)
	if err != nil {
		return nil, fmt.Errorf("rotate root: %w", err)
	}
	raw, err := sealRoot(meta, before.meta, keys)
	if err != nil {
		return nil, fmt.Errorf("rotate root: %w", err)
	}
	return raw, nil
}

func (spec RootSpec) build(version int64) (*metadata.Metadata[metadata.RootType], error) {
	if err := certs.CheckTrustDomain(spec.TrustDomain); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrustDomain, err)
	}
	switch spec.Repository {
	case Image:
	case Director:
		if len(spec.Snapshot.Keys)+len(spec.Timestamp.Keys) > 0 {
			return nil, malformed("a director root has no snapshot and timestamp keys")
		}
		spec.Snapshot, spec.Timestamp = spec.Targets, spec.Targets
	default:
		return nil, fmt.Errorf("%w: repository %.40q", ErrKind, spec.Repository)
	}
	body, err := plain(rootBody{TrustDomain: spec.TrustDomain, Repository: spec.Repository})
	if err != nil {
		return nil, err
	}
	meta := metadata.Root(wholeSeconds(spec.Expires))
	meta.Signed.Version = version
	meta.Signed.UnrecognizedFields = map[string]any{bodyField: body}
	for name, role := range map[string]RoleKeys{
		RoleRoot: spec.Root, RoleTargets: spec.Targets, RoleSnapshot: spec.Snapshot, RoleTimestamp: spec.Timestamp,
	} {
		for _, public := range role.Keys {
			key, err := public.tuf()
			if err != nil {
				return nil, err
			}
			if err := meta.Signed.AddKey(key, name); err != nil {
				return nil, fmt.Errorf("role %s: %w", name, err)
			}
		}
		meta.Signed.Roles[name].Threshold = role.Threshold
	}
	if err := checkRoot(&meta.Signed); err != nil {
		return nil, err
	}
	return meta, nil
}

// sealRoot signs a root. Each key must be a root key of it or of the one
// before, so that a slip of the hand does not sign with the wrong file.
func sealRoot(meta, before *metadata.Metadata[metadata.RootType], keys []*Key) ([]byte, error) {
	for _, key := range keys {
		if !hasKey(meta, RoleRoot, key) && !hasKey(before, RoleRoot, key) {
			return nil, fmt.Errorf("%w: %s is no root key", ErrKey, key)
		}
	}
	return seal(meta, MaxRoot, keys...)
}

func hasKey(root *metadata.Metadata[metadata.RootType], role string, key *Key) bool {
	return root != nil && slices.Contains(root.Signed.Roles[role].KeyIDs, key.ID())
}

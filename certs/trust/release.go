package trust

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"groundswell/topics"
)

// ReleaseSchema is the highest schema of Release that this package reads, and
// the one that it writes.
const ReleaseSchema = 1

// MaxIndex is the largest block index in bytes.
const MaxIndex = 8 << 20

// maxNotes is the longest release note in bytes.
const maxNotes = 4 << 10

// Release is what the release role signs about an artifact besides its length
// and digest: the "custom" of its target.
type Release struct {
	Schema    int    `json:"schema"`
	Component string `json:"component"` // what it replaces on a device
	Name      string `json:"name"`
	Version   string `json:"version"` // semver
	// Models are those that it is made for, at least one. Hardware are the
	// hardware revisions; absent means any.
	Models   []string `json:"models"`
	Hardware []string `json:"hardware,omitempty"`
	// SecurityFloor is the lowest version of the component that may still be
	// installed on these models and revisions once this release is known.
	// Absent: it sets none. It can only ever be raised, because a release
	// cannot be withdrawn.
	SecurityFloor string `json:"security_floor,omitempty"`
	// Requires are conditions on other components. Absent: none.
	Requires []Requirement `json:"requires,omitempty"`
	// MinAgentSchema is the lowest schema of topics that an agent must know to
	// install it. Absent: any.
	MinAgentSchema int    `json:"min_agent_schema,omitempty"`
	Notes          string `json:"notes,omitempty"`
	// Index pins the artifact's block index (internal/block), by which a device checks
	// every part before it uses it, whoever sent it. Absent: only the whole can be
	// checked, and there are no deltas and no packed blocks.
	Index *topics.Document `json:"index,omitempty"`
}

// Requirement is a condition on what another component of the device runs.
type Requirement struct {
	Component string `json:"component"`
	Versions  string `json:"versions"` // constraint, such as ">=2.1 <3"
}

// ReleaseImage is a target of the image repository: an artifact with its
// release.
type ReleaseImage struct {
	Path    string // see ReleasePath
	Length  int64  // bytes
	SHA256  string // lower-case hex
	Release Release
}

// ReleasePath is the target path of a release:
// <component>/<name>/<version>.
func ReleasePath(r Release) string { return r.Component + "/" + r.Name + "/" + r.Version }

var pathRegexp = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*$`)

// Validate returns ErrMalformed or ErrSchema unless the release can be acted
// upon as it stands.
func (r Release) Validate() error {
	if r.Schema > ReleaseSchema {
		return fmt.Errorf("%w: release schema %d, known up to %d", ErrSchema, r.Schema, ReleaseSchema)
	}
	if r.Schema < 1 {
		return malformed("schema: must be at least 1")
	}
	checks := []error{
		topics.CheckID("component", r.Component),
		topics.CheckID("name", r.Name),
		topics.CheckVersion("version", r.Version),
	}
	if r.SecurityFloor != "" {
		checks = append(checks, topics.CheckVersion("security_floor", r.SecurityFloor))
	}
	for i, model := range r.Models {
		checks = append(checks, topics.CheckID(fmt.Sprintf("models[%d]", i), model))
	}
	for i, hardware := range r.Hardware {
		checks = append(checks, topics.CheckID(fmt.Sprintf("hardware[%d]", i), hardware))
	}
	for i, q := range r.Requires {
		checks = append(checks,
			topics.CheckID(fmt.Sprintf("requires[%d].component", i), q.Component),
			topics.CheckConstraint(fmt.Sprintf("requires[%d].versions", i), q.Versions))
	}
	for _, err := range checks {
		if err != nil {
			return malformed("%w", err)
		}
	}
	switch {
	case len(r.Models) < 1 || len(r.Models) > 64:
		return malformed("models: must name 1 to 64")
	case len(r.Hardware) > 64:
		return malformed("hardware: names more than 64")
	case len(r.Requires) > 16:
		return malformed("requires: has more than 16")
	case len(r.Notes) > maxNotes:
		return malformed("notes: has more than %d bytes", maxNotes)
	case r.MinAgentSchema < 0:
		return malformed("min_agent_schema: must not be negative")
	}
	if r.Index != nil {
		if r.Index.Length < 1 || r.Index.Length > MaxIndex {
			return malformed("index.length: must be from 1 to %d", MaxIndex)
		}
		if err := topics.CheckDigest("index.sha256", r.Index.SHA256); err != nil {
			return malformed("%w", err)
		}
	}
	if r.SecurityFloor != "" {
		if below, err := lower(r.Version, r.SecurityFloor); err != nil || below {
			return malformed("security_floor: %s is above the release's own version %s", r.SecurityFloor, r.Version)
		}
	}
	return nil
}

func lower(a, b string) (bool, error) {
	n, err := topics.CompareVersions(a, b)
	if err != nil {
		return false, malformed("%w", err)
	}
	return n < 0, nil
}

func (i ReleaseImage) validate() error {
	switch {
	case len(i.Path) > 256 || !pathRegexp.MatchString(i.Path):
		return malformed("target path %.80q", i.Path)
	case i.Length < 1 || i.Length > topics.MaxArtifact:
		return malformed("target %s: a length of %d", i.Path, i.Length)
	case topics.CheckDigest("sha256", i.SHA256) != nil:
		return malformed("target %s: %.80q is not a SHA-256 in lower-case hex", i.Path, i.SHA256)
	}
	if err := i.Release.Validate(); err != nil {
		return fmt.Errorf("target %s: %w", i.Path, err)
	}
	if want := ReleasePath(i.Release); i.Path != want {
		return malformed("target %s: its release belongs at %s", i.Path, want)
	}
	return nil
}

func (i ReleaseImage) equal(other ReleaseImage) bool {
	return i.Path == other.Path && i.Length == other.Length && i.SHA256 == other.SHA256 &&
		equalJSON(i.Release, other.Release)
}

func equalJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// target is the TUF form.
func (i ReleaseImage) target() (*metadata.TargetFiles, error) {
	digest, err := hex.DecodeString(i.SHA256)
	if err != nil {
		return nil, malformed("target %s: %w", i.Path, err)
	}
	tree, err := plain(i.Release)
	if err != nil {
		return nil, err
	}
	custom, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	return &metadata.TargetFiles{
		Length: i.Length,
		Hashes: metadata.Hashes{"sha256": digest},
		Custom: (*json.RawMessage)(&custom),
		Path:   i.Path,
	}, nil
}

// imageOf reads a target. With ErrSchema the result is what could be read.
func imageOf(path string, t *metadata.TargetFiles) (ReleaseImage, error) {
	image := ReleaseImage{Path: path, Length: t.Length, SHA256: t.Hashes["sha256"].String()}
	if t.Custom == nil {
		return ReleaseImage{}, malformed("target %.80s: no custom", path)
	}
	if err := json.Unmarshal(*t.Custom, &image.Release); err != nil {
		return ReleaseImage{}, malformed("target %.80s: custom: %w", path, err)
	}
	return image, image.validate()
}

// Images is a verified list of all releases: the image repository's targets.
type Images struct {
	version int64
	expires time.Time
	byPath  map[string]ReleaseImage
}

// Version of the targets metadata.
func (i Images) Version() int64 { return i.version }

// Expires is when the release role must have signed a newer list.
func (i Images) Expires() time.Time { return i.expires }

// Lookup finds a release by its target path.
func (i Images) Lookup(path string) (ReleaseImage, bool) {
	image, ok := i.byPath[path]
	return image, ok
}

// All lists the releases by path.
func (i Images) All() []ReleaseImage {
	all := make([]ReleaseImage, 0, len(i.byPath))
	for _, image := range i.byPath {
		all = append(all, image)
	}
	slices.SortFunc(all, func(a, b ReleaseImage) int { return strings.Compare(a.Path, b.Path) })
	return all
}

// checkTargets reads and verifies targets of the image repository by root.
// Expiry and what came before are for the caller to look at.
func checkTargets(r root, raw []byte) (Images, head, error) {
	doc, err := parse[metadata.TargetsType](raw, MaxTargets)
	if err != nil {
		return Images{}, head{}, fmt.Errorf("targets: %w", err)
	}
	if err := verify(r.meta, RoleTargets, doc); err != nil {
		return Images{}, head{}, fmt.Errorf("targets %d: %w", doc.version, err)
	}
	if doc.meta.Signed.Delegations != nil {
		return Images{}, head{}, malformed("targets: delegations are not used here")
	}
	images, err := imagesOf(doc)
	if err != nil {
		return Images{}, head{}, fmt.Errorf("targets %d: %w", doc.version, err)
	}
	return images, doc.head, nil
}

// keeps is ErrVanished unless every release of old is in i, unchanged.
func (i Images) keeps(old Images) error {
	for path, was := range old.byPath {
		is, ok := i.byPath[path]
		if !ok {
			return fmt.Errorf("%w: %s is gone in targets %d", ErrVanished, path, i.version)
		}
		if !is.equal(was) {
			return fmt.Errorf("%w: %s is different in targets %d", ErrVanished, path, i.version)
		}
	}
	return nil
}

// CheckTargets verifies targets of the image repository against its root: what
// fleetd does with an upload. previous is the list that it would replace, nil
// when there is none yet: the version must be higher, and no release may
// vanish or change. The same bytes again are fine.
func CheckTargets(trustDomain string, rootRaw, previous, raw []byte, now time.Time) (Images, error) {
	r, err := parseRoot(trustDomain, Image, rootRaw)
	if err != nil {
		return Images{}, err
	}
	if err := r.notExpired(now); err != nil {
		return Images{}, err
	}
	images, h, err := checkTargets(r, raw)
	if err != nil {
		return Images{}, err
	}
	if err := h.notExpired(now); err != nil {
		return Images{}, err
	}
	if previous == nil || bytes.Equal(previous, raw) {
		return images, nil
	}
	// The previous list was verified when it came; since then the root may
	// have dropped keys that signed it.
	old, err := readTargets(previous)
	if err != nil {
		return Images{}, fmt.Errorf("previous: %w", err)
	}
	if images.version <= old.version {
		return Images{}, fmt.Errorf("%w: targets %d after %d", ErrVersionRollback, images.version, old.version)
	}
	if err := images.keeps(old); err != nil {
		return Images{}, err
	}
	return images, nil
}

// ReadTargets reads targets that were verified before, and kept where nobody else writes.
func ReadTargets(raw []byte) (Images, error) { return readTargets(raw) }

// readTargets is ReadTargets.
func readTargets(raw []byte) (Images, error) {
	doc, err := parse[metadata.TargetsType](raw, MaxTargets)
	if err != nil {
		return Images{}, err
	}
	return imagesOf(doc)
}

func imagesOf(doc document[metadata.TargetsType]) (Images, error) {
	images := Images{version: doc.version, expires: doc.expires, byPath: map[string]ReleaseImage{}}
	for path, target := range doc.meta.Signed.Targets {
		image, err := imageOf(path, target)
		// A release of a newer schema is no reason to refuse all others: it
		// cannot be chosen (Eligible), but it holds its place.
		if err != nil && !errors.Is(err, ErrSchema) {
			return Images{}, err
		}
		images.byPath[path] = image
	}
	return images, nil
}

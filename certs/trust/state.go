package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"groundswell/certs"
	"groundswell/topics"
)

// State is what a device has come to trust. It is a value: every method that
// accepts something returns a new State and leaves the old one as it was, and
// on error returns the old one. It goes to disk as JSON, and everything in it
// is checked again when it comes back (ParseState).
type State struct {
	TrustDomain  string `json:"trust_domain"`
	ImageRoot    []byte `json:"image_root"`    // as received
	DirectorRoot []byte `json:"director_root"` // as received

	// Newest accepted of each cohort; absent: none yet.
	ManifestMarks  map[string]Mark `json:"manifests,omitempty"`
	AssignmentMark Mark            `json:"assignment,omitzero"`
	CommandMark    Mark            `json:"command,omitzero"`

	TimestampMark Mark       `json:"timestamp,omitzero"`
	SnapshotMark  Mark       `json:"snapshot,omitzero"`
	TargetsPin    TargetsPin `json:"targets_pin,omitzero"` // what the snapshot names
	// ImageSnapshot is the snapshot of SnapshotMark as received. Absent: none yet, or it
	// was accepted by an agent of before 2026-12.
	ImageSnapshot []byte `json:"image_snapshot,omitempty"`
	// ImageTargets is the newest accepted list of releases, as received.
	// Absent: none yet.
	ImageTargets []byte `json:"image_targets,omitempty"`

	// Issued is the newest time of issue that the director has signed.
	Issued time.Time `json:"issued,omitzero"`
}

// Mark remembers what was accepted last: nothing older, and of the same
// version nothing else. The zero Mark accepts everything.
type Mark struct {
	Version int64  `json:"version"`
	SHA256  string `json:"sha256"` // of the bytes as received
}

// TargetsPin names one exact targets.json.
type TargetsPin struct {
	Version int64  `json:"version"`
	Length  int64  `json:"length"` // bytes
	SHA256  string `json:"sha256"` // lower-case hex
}

// advance is the next mark, or ErrVersionRollback.
func (m Mark) advance(version int64, raw []byte) (Mark, error) {
	next := Mark{Version: version, SHA256: digestOf(raw)}
	switch {
	case version < m.Version:
		return m, fmt.Errorf("%w: %d after %d", ErrVersionRollback, version, m.Version)
	case version == m.Version && next != m:
		return m, fmt.Errorf("%w: other bytes for version %d", ErrVersionRollback, version)
	}
	return next, nil
}

// NewState begins trust with the roots that a device was provisioned with, of
// any version, expired or not.
func NewState(trustDomain string, imageRoot, directorRoot []byte) (State, error) {
	if err := certs.CheckTrustDomain(trustDomain); err != nil {
		return State{}, fmt.Errorf("%w: %w", ErrTrustDomain, err)
	}
	s := State{TrustDomain: trustDomain, ImageRoot: bytes.Clone(imageRoot), DirectorRoot: bytes.Clone(directorRoot)}
	if err := s.checkRoots(); err != nil {
		return State{}, err
	}
	return s, nil
}

// ParseState reads a State from JSON. A file that was damaged is ErrMalformed
// or a refusal of what it holds; the device then begins anew by NewState.
func ParseState(data []byte) (State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, malformed("state: %w", err)
	}
	if err := s.checkRoots(); err != nil {
		return State{}, fmt.Errorf("state: %w", err)
	}
	if s.ImageTargets != nil {
		if _, err := readTargets(s.ImageTargets); err != nil {
			return State{}, fmt.Errorf("state: %w", err)
		}
	}
	return s, nil
}

// checkRoots reads both roots and refuses a key that is release key and
// director key at once: whoever steals fleetd would hold both halves.
func (s State) checkRoots() error {
	image, err := s.root(Image)
	if err != nil {
		return err
	}
	director, err := s.root(Director)
	if err != nil {
		return err
	}
	online := director.meta.Signed.Roles[RoleTargets].KeyIDs
	for _, id := range image.meta.Signed.Roles[RoleTargets].KeyIDs {
		if slices.Contains(online, id) {
			return fmt.Errorf("%w: %.16s is release key and director key at once", ErrKey, id)
		}
	}
	return nil
}

func (s State) root(repo Repository) (root, error) {
	switch repo {
	case Image:
		return parsed.root(s.TrustDomain, Image, s.ImageRoot)
	case Director:
		return parsed.root(s.TrustDomain, Director, s.DirectorRoot)
	}
	return root{}, fmt.Errorf("%w: repository %.40q", ErrKind, repo)
}

// liveImageRoot is the image root for accepting something at now: it must not
// have expired.
func (s State) liveImageRoot(now time.Time) (root, error) {
	r, err := s.root(Image)
	if err != nil {
		return root{}, err
	}
	if err := r.notExpired(now); err != nil {
		return root{}, fmt.Errorf("image repository: %w", err)
	}
	return r, nil
}

// RootVersion is the version of the root in force; the next one to ask for is
// one higher.
func (s State) RootVersion(repo Repository) int64 {
	r, err := s.root(repo)
	if err != nil {
		return 0 // not reached: NewState, ParseState and Root let in only roots that parse
	}
	return r.version
}

// Root takes one step in the chain of roots: exactly the next version, signed
// by the thresholds of both. The bytes in force are accepted again and change
// nothing. Expiry is not looked at, because the way to a root that is valid
// may lead over some that are not; an expired root accepts nothing else.
// The package comment says what a root that drops keys makes the State forget.
func (s State) Root(repo Repository, raw []byte) (State, error) {
	before, err := s.root(repo)
	if err != nil {
		return s, err
	}
	if bytes.Equal(before.raw, raw) {
		return s, nil
	}
	next, err := before.follow(s.TrustDomain, repo, raw)
	if err != nil {
		return s, err
	}
	after := s
	switch repo {
	case Director:
		after.DirectorRoot = next.raw
		if before.dropped(next, RoleTargets) {
			after.ManifestMarks, after.AssignmentMark, after.CommandMark = nil, Mark{}, Mark{}
			after.Issued = time.Time{}
		}
	case Image:
		after.ImageRoot = next.raw
		if before.dropped(next, RoleTargets) {
			after.ImageTargets = nil
		}
		if before.dropped(next, RoleTargets) || before.dropped(next, RoleSnapshot) || before.dropped(next, RoleTimestamp) {
			after.TimestampMark, after.SnapshotMark, after.TargetsPin, after.ImageSnapshot = Mark{}, Mark{}, TargetsPin{}, nil
		}
	}
	if err := after.checkRoots(); err != nil {
		return s, err
	}
	return after, nil
}

// Floor is the newest time of issue that was verified: it is at least that
// late. Zero: nothing was verified yet.
func (s State) Floor() time.Time { return s.Issued }

// CommandVersion is the version of the newest command that was accepted. A
// command of this version has been obeyed and is only a repetition.
func (s State) CommandVersion() int64 { return s.CommandMark.Version }

// bodyHead is what the bodies of manifests, assignments and commands have in
// common.
type bodyHead struct {
	Schema      int       `json:"schema"`
	Kind        string    `json:"kind"`
	TrustDomain string    `json:"trust_domain"`
	Cohort      string    `json:"cohort"`
	Device      string    `json:"device"`
	Version     int64     `json:"version"`
	Issued      time.Time `json:"issued"`
}

// Manifest verifies what arrived on the topic of a cohort's manifest.
func (s State) Manifest(raw []byte, cohort string, now time.Time) (State, topics.Manifest, error) {
	refuse := func(err error) (State, topics.Manifest, error) {
		return s, topics.Manifest{}, fmt.Errorf("manifest of %.80s: %w", cohort, err)
	}
	doc, h, body, err := s.director(raw, topics.KindManifest, now)
	if err != nil {
		return refuse(err)
	}
	if h.Cohort != cohort {
		return refuse(fmt.Errorf("%w: it is for %.80q", ErrName, h.Cohort))
	}
	m, err := topics.DecodeManifest(body)
	if err != nil {
		return refuse(translate(err))
	}
	for _, e := range m.Entries {
		target, err := targetOf(e)
		if err != nil {
			return refuse(err)
		}
		if named := doc.meta.Signed.Targets[e.Target.Path]; named == nil || !named.Equal(*target) {
			return refuse(malformed("entry %s: its target is not among the targets", e.Rollout))
		}
	}
	mark, err := s.ManifestMarks[cohort].advance(m.Version, raw)
	if err != nil {
		return refuse(err)
	}
	after := s.issued(m.Issued)
	after.ManifestMarks = maps.Clone(s.ManifestMarks)
	if after.ManifestMarks == nil {
		after.ManifestMarks = map[string]Mark{}
	}
	after.ManifestMarks[cohort] = mark
	return after, m, nil
}

// Assignment verifies what arrived on the topic of a device's assignment.
func (s State) Assignment(raw []byte, device string, now time.Time) (State, topics.Assignment, error) {
	refuse := func(err error) (State, topics.Assignment, error) {
		return s, topics.Assignment{}, fmt.Errorf("assignment of %.80s: %w", device, err)
	}
	_, h, body, err := s.director(raw, topics.KindAssignment, now)
	if err != nil {
		return refuse(err)
	}
	if h.Device != device {
		return refuse(fmt.Errorf("%w: it is for %.80q", ErrName, h.Device))
	}
	a, err := topics.DecodeAssignment(body)
	if err != nil {
		return refuse(translate(err))
	}
	mark, err := s.AssignmentMark.advance(a.Version, raw)
	if err != nil {
		return refuse(err)
	}
	after := s.issued(a.Issued)
	after.AssignmentMark = mark
	return after, a, nil
}

// Command verifies what arrived on the topic of a device's commands. The same
// command may arrive again: compare CommandVersion of the State before.
func (s State) Command(raw []byte, device string, now time.Time) (State, topics.Command, error) {
	refuse := func(err error) (State, topics.Command, error) {
		return s, topics.Command{}, fmt.Errorf("command for %.80s: %w", device, err)
	}
	_, h, body, err := s.director(raw, topics.KindCommand, now)
	if err != nil {
		return refuse(err)
	}
	if h.Device != device {
		return refuse(fmt.Errorf("%w: it is for %.80q", ErrName, h.Device))
	}
	c, err := topics.DecodeCommand(body)
	if err != nil {
		return refuse(translate(err))
	}
	mark, err := s.CommandMark.advance(c.Version, raw)
	if err != nil {
		return refuse(err)
	}
	after := s.issued(c.Issued)
	after.CommandMark = mark
	return after, c, nil
}

// director checks all that manifests, assignments and commands have in common
// and returns the body's JSON.
func (s State) director(raw []byte, kind topics.Kind, now time.Time) (doc document[metadata.TargetsType], h bodyHead, body []byte, err error) {
	doc, err = parse[metadata.TargetsType](raw, topics.MaxPayload(kind))
	if err != nil {
		return doc, h, nil, err
	}
	r, err := s.root(Director)
	if err != nil {
		return doc, h, nil, err
	}
	if err := verify(r.meta, RoleTargets, doc); err != nil {
		return doc, h, nil, err
	}
	if doc.meta.Signed.Delegations != nil {
		return doc, h, nil, malformed("delegations are not used here")
	}
	if body, err = doc.rawBody(); err != nil {
		return doc, h, nil, err
	}
	if err := doc.body(&h); err != nil {
		return doc, h, nil, err
	}
	switch {
	case h.Schema > topics.Schema:
		return doc, h, nil, fmt.Errorf("%w: %d, known up to %d", ErrSchema, h.Schema, topics.Schema)
	case h.TrustDomain != s.TrustDomain:
		return doc, h, nil, fmt.Errorf("%w: %.80q", ErrTrustDomain, h.TrustDomain)
	case h.Kind != string(kind):
		return doc, h, nil, fmt.Errorf("%w: %.40q instead of %s", ErrKind, h.Kind, kind)
	case h.Version != doc.version:
		return doc, h, nil, malformed("version %d outside, %d inside", doc.version, h.Version)
	}
	// It is at least as late as the time of issue. So a director key that claims a
	// time of its own choice can push the floor no further than the expiry of
	// the root that names it.
	now = later(s.at(now), h.Issued)
	if err := r.notExpired(now); err != nil {
		return doc, h, nil, fmt.Errorf("director repository: %w", err)
	}
	if err := doc.notExpired(now); err != nil {
		return doc, h, nil, err
	}
	return doc, h, body, nil
}

// at is the time to check expiry by: a clock that runs behind what was
// verified already is wrong.
func (s State) at(now time.Time) time.Time { return later(now, s.Issued) }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// issued raises the time floor.
func (s State) issued(t time.Time) State {
	s.Issued = later(s.Issued, t.UTC())
	return s
}

// translate turns refusals of package topics into those of this one.
func translate(err error) error {
	switch {
	case errors.Is(err, topics.ErrSchema):
		return fmt.Errorf("%w: %w", ErrSchema, err)
	case errors.Is(err, topics.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return malformed("%w", err)
}

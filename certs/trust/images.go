package trust

import (
	"bytes"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"groundswell/topics"
)

// NeedsSnapshot reports whether the snapshot that a manifest pins, and then
// the targets that it names, have yet to be fetched. A pin older than what is
// held needs nothing: cohorts are renewed one after the other, and a list of
// releases holds all that an older one held.
func (s State) NeedsSnapshot(pin topics.SnapshotPin) bool {
	if pin.Version > s.SnapshotMark.Version {
		return true
	}
	_, err := s.held()
	return err != nil
}

// Documents are the snapshot and the list of releases that were accepted last, as received,
// by their SHA-256 (lower-case hex). There are none without the list that the snapshot names:
// the one is of no use to others without the other.
func (s State) Documents() map[string][]byte {
	documents := map[string][]byte{}
	if _, err := s.held(); err != nil {
		return documents
	}
	documents[s.TargetsPin.SHA256] = s.ImageTargets
	if s.ImageSnapshot != nil {
		documents[digestOf(s.ImageSnapshot)] = s.ImageSnapshot
	}
	return documents
}

// held reads the targets that the verified snapshot names.
func (s State) held() (Images, error) {
	if s.ImageTargets == nil || s.TargetsPin.SHA256 != digestOf(s.ImageTargets) {
		return Images{}, fmt.Errorf("%w: the targets that the snapshot names are not there yet", ErrPin)
	}
	return readTargets(s.ImageTargets)
}

// Timestamp verifies the image repository's timestamp and returns the pin of
// the snapshot that it names. Devices take the pin from a manifest instead.
func (s State) Timestamp(raw []byte, now time.Time) (State, topics.SnapshotPin, error) {
	refuse := func(err error) (State, topics.SnapshotPin, error) {
		return s, topics.SnapshotPin{}, fmt.Errorf("timestamp: %w", err)
	}
	doc, err := parse[metadata.TimestampType](raw, MaxTimestamp)
	if err != nil {
		return refuse(err)
	}
	if err := accept(s, RoleTimestamp, doc, now); err != nil {
		return refuse(err)
	}
	length, digest, version, err := metaOf(doc.meta.Signed.Meta, snapshotFile, MaxSnapshot)
	if err != nil {
		return refuse(err)
	}
	if version < s.SnapshotMark.Version {
		return refuse(fmt.Errorf("%w: it names snapshot %d after %d", ErrVersionRollback, version, s.SnapshotMark.Version))
	}
	mark, err := s.TimestampMark.advance(doc.version, raw)
	if err != nil {
		return refuse(err)
	}
	after := s
	after.TimestampMark = mark
	return after, topics.SnapshotPin{Version: version, Length: length, SHA256: digest}, nil
}

// Snapshot verifies the snapshot that a verified manifest or timestamp pins,
// and returns which targets to fetch.
func (s State) Snapshot(raw []byte, pin topics.SnapshotPin, now time.Time) (State, TargetsPin, error) {
	refuse := func(err error) (State, TargetsPin, error) {
		return s, TargetsPin{}, fmt.Errorf("snapshot: %w", err)
	}
	doc, err := parse[metadata.SnapshotType](raw, MaxSnapshot)
	if err != nil {
		return refuse(err)
	}
	if int64(len(raw)) != pin.Length || digestOf(raw) != pin.SHA256 || doc.version != pin.Version {
		return refuse(fmt.Errorf("%w: version %d of %d bytes, wanted version %d of %d bytes", ErrPin, doc.version, len(raw), pin.Version, pin.Length))
	}
	if err := accept(s, RoleSnapshot, doc, now); err != nil {
		return refuse(err)
	}
	length, digest, version, err := metaOf(doc.meta.Signed.Meta, targetsFile, MaxTargets)
	if err != nil {
		return refuse(err)
	}
	names := TargetsPin{Version: version, Length: length, SHA256: digest}
	switch {
	case names.Version < s.TargetsPin.Version:
		return refuse(fmt.Errorf("%w: it names targets %d after %d", ErrVersionRollback, names.Version, s.TargetsPin.Version))
	case names.Version == s.TargetsPin.Version && names != s.TargetsPin:
		return refuse(fmt.Errorf("%w: it names other targets of version %d", ErrVersionRollback, names.Version))
	}
	mark, err := s.SnapshotMark.advance(doc.version, raw)
	if err != nil {
		return refuse(err)
	}
	after := s
	after.SnapshotMark = mark
	after.TargetsPin = names
	after.ImageSnapshot = bytes.Clone(raw)
	return after, names, nil
}

// Targets verifies the list of releases that the verified snapshot names.
func (s State) Targets(raw []byte, now time.Time) (State, Images, error) {
	refuse := func(err error) (State, Images, error) {
		return s, Images{}, err
	}
	if len(raw) > MaxTargets {
		return refuse(fmt.Errorf("targets: %w: %d bytes, at most %d", ErrTooLarge, len(raw), MaxTargets))
	}
	if s.TargetsPin.Version == 0 {
		return refuse(fmt.Errorf("targets: %w: no snapshot was verified", ErrPin))
	}
	if int64(len(raw)) != s.TargetsPin.Length || digestOf(raw) != s.TargetsPin.SHA256 {
		return refuse(fmt.Errorf("targets: %w: %d bytes, the snapshot names version %d of %d bytes", ErrPin, len(raw), s.TargetsPin.Version, s.TargetsPin.Length))
	}
	images, err := s.checkTargets(raw, now)
	if err != nil {
		return refuse(err)
	}
	if images.version != s.TargetsPin.Version {
		return refuse(fmt.Errorf("targets: %w: version %d, the snapshot names %d", ErrPin, images.version, s.TargetsPin.Version))
	}
	if s.ImageTargets != nil {
		old, err := readTargets(s.ImageTargets)
		if err != nil {
			return refuse(err)
		}
		if images.version < old.version {
			return refuse(fmt.Errorf("%w: targets %d after %d", ErrVersionRollback, images.version, old.version))
		}
		if err := images.keeps(old); err != nil {
			return refuse(err)
		}
	}
	after := s
	after.ImageTargets = bytes.Clone(raw)
	return after, images, nil
}

// Images is the list of releases that is held, verified again as of now: for
// example after a restart.
func (s State) Images(now time.Time) (Images, error) {
	if _, err := s.held(); err != nil {
		return Images{}, err
	}
	return s.checkTargets(s.ImageTargets, now)
}

func (s State) checkTargets(raw []byte, now time.Time) (Images, error) {
	now = s.at(now)
	r, err := s.liveImageRoot(now)
	if err != nil {
		return Images{}, err
	}
	images, h, err := checkTargets(r, raw)
	if err != nil {
		return Images{}, err
	}
	if err := h.notExpired(now); err != nil {
		return Images{}, err
	}
	return images, nil
}

// accept checks signatures and expiry of the image repository's online roles.
func accept[T metadata.Roles](s State, role string, doc document[T], now time.Time) error {
	now = s.at(now)
	r, err := s.liveImageRoot(now)
	if err != nil {
		return err
	}
	if err := verify(r.meta, role, doc); err != nil {
		return err
	}
	return doc.notExpired(now)
}

// metaOf reads what a snapshot or timestamp says about the one file that it
// names.
func metaOf(meta map[string]*metadata.MetaFiles, name string, limit int64) (length int64, digest string, version int64, err error) {
	file := meta[name]
	if file == nil {
		return 0, "", 0, malformed("it does not name %s", name)
	}
	digest = file.Hashes["sha256"].String()
	switch {
	case file.Version < 1:
		return 0, "", 0, malformed("%s: version %d", name, file.Version)
	case topics.CheckDigest(name, digest) != nil:
		return 0, "", 0, malformed("%s: no SHA-256", name)
	case file.Length < 1 || file.Length > limit:
		return 0, "", 0, malformed("%s: a length of %d", name, file.Length)
	}
	return file.Length, digest, file.Version, nil
}

package fleet

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"groundswell/topics"
)

// Release is a version of a component that the release role signed. It never
// changes once it is there. Its identity is (Name, Version).
type Release struct {
	Component string
	Name      string
	Version   string
	Path      string // TUF target path
	Length    int64  // bytes
	SHA256    string // lower-case hex
	Models    []string
	// Hardware revisions that it runs on. Absent: any.
	Hardware []string
	// SecurityFloor is the lowest version of the component that may be
	// installed once this release exists. Absent: no floor.
	SecurityFloor string
	// Requires are conditions on what a device runs, of this or other components.
	Requires []Requirement
	// Index pins the artifact's block index. Nil: it has none, so that there are no
	// deltas that make it.
	Index     *topics.Document
	Notes     string
	CreatedAt time.Time
	CreatedBy string
}

// RunsOn reports whether the release was made for this model and hardware
// revision.
func (r Release) RunsOn(model, hardware string) bool {
	return slices.Contains(r.Models, model) && (len(r.Hardware) == 0 || slices.Contains(r.Hardware, hardware))
}

// Validate returns a FieldError below pointer. The signature is not its matter.
func (r Release) Validate(pointer string) error {
	err := firstError(
		checkID(pointer+"/component", r.Component),
		checkID(pointer+"/name", r.Name),
		pointed(pointer+"/version", topics.CheckVersion("", r.Version)),
		pointed(pointer+"/sha256", topics.CheckDigest("", r.SHA256)),
	)
	if err != nil {
		return err
	}
	if strings.ContainsRune(r.Notes, 0) || !utf8.ValidString(r.Notes) {
		return Invalid(pointer+"/notes", "cannot be stored")
	}
	if r.Length < 1 || r.Length > topics.MaxArtifact {
		return Invalid(pointer+"/length", "must be from 1 to %d bytes", int64(topics.MaxArtifact))
	}
	if r.Index != nil {
		if r.Index.Length < 1 {
			return Invalid(pointer+"/index/length", "must be at least 1")
		}
		if err := pointed(pointer+"/index/sha256", topics.CheckDigest("", r.Index.SHA256)); err != nil {
			return err
		}
	}
	if r.SecurityFloor != "" {
		if err := pointed(pointer+"/security_floor", topics.CheckVersion("", r.SecurityFloor)); err != nil {
			return err
		}
	}
	for i, q := range r.Requires {
		at := index(pointer+"/requires", i)
		if err := firstError(checkID(at+"/component", q.Component), pointed(at+"/versions", topics.CheckConstraint("", q.Versions))); err != nil {
			return err
		}
	}
	if len(r.Models) == 0 {
		return Invalid(pointer+"/models", "names no model")
	}
	for i, m := range r.Models {
		if err := checkID(index(pointer+"/models", i), m); err != nil {
			return err
		}
	}
	for i, h := range r.Hardware {
		if err := checkID(index(pointer+"/hardware", i), h); err != nil {
			return err
		}
	}
	return nil
}

// Artifact is what is known about stored bytes.
type Artifact struct {
	SHA256    string
	Length    int64
	CreatedAt time.Time
	CreatedBy string
}

// RepositoryFile is one signed metadata file of a TUF repository, byte for byte.
type RepositoryFile struct {
	Repository string // "image" or "director"
	Name       string // "root.json", "targets.json", "snapshot.json", "timestamp.json"
	Version    int64
	Bytes      []byte
	CreatedAt  time.Time
}

// AuditEntry is one row of the audit trail.
type AuditEntry struct {
	ID        int64
	At        time.Time
	Actor     string
	Action    string // "rollout.pause", "cohort.create", ...
	Object    string // "rollout/r-abc", "cohort/berlin", "device/cam-1", "release/camera@1.0.0"
	Before    int64  // revision; 0: it did not exist
	After     int64  // revision; 0: it is gone
	RequestID string
	Detail    string // JSON
}

// Command is a request to one device and what became of it.
type Command struct {
	ID        string
	Device    string
	Version   int64
	Action    topics.CommandAction
	Rollout   string
	CreatedAt time.Time
	CreatedBy string
	ExpiresAt time.Time
	AckedAt   time.Time // zero: not yet
}

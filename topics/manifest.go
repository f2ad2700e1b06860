package topics

import "time"

// Schema is the payload schema that this package writes, and the highest that
// it reads.
const Schema = 1

// Manifest is what a cohort is to run: the body of the director-signed
// metadata on CohortManifest, under the key "groundswell" of its signed part.
// A cohort has one from its creation on; no entries means "nothing to do".
type Manifest struct {
	Schema      int       `json:"schema"`
	Kind        string    `json:"kind"` // always "manifest"
	TrustDomain string    `json:"trust_domain"`
	Cohort      string    `json:"cohort"`
	Version     int64     `json:"version"` // only ever grows, per cohort
	Issued      time.Time `json:"issued"`
	// Images pins the image repository's snapshot. Absent until the first
	// release has been published; then no entry may stand beside it.
	Images  *SnapshotPin `json:"images,omitempty"`
	Entries []Entry      `json:"entries"`
}

// SnapshotPin names one exact snapshot of the image repository.
type SnapshotPin struct {
	Version int64  `json:"version"`
	Length  int64  `json:"length"` // bytes
	SHA256  string `json:"sha256"` // lower-case hex
}

// EntryKind says what a rollout does.
type EntryKind string

// Kinds of rollouts.
const (
	EntryUpdate EntryKind = "update" // forward: never to a lower version
	EntryRevert EntryKind = "revert" // back to an older release
)

// EntryState is the state of a rollout as devices see it.
type EntryState string

// States of an entry. A rollout that was cancelled has no entry.
const (
	EntryRunning   EntryState = "running"
	EntryPaused    EntryState = "paused"    // nobody starts, nobody activates; it still wins (section "one decision")
	EntryCompleted EntryState = "completed" // as running, for those who were offline
)

// Entry is one rollout in a manifest. Per component the entry of the highest
// Priority wins, then the highest Sequence; of one rollout in two manifests,
// the highest Revision counts. An entry that the device does not qualify for
// (model, From) takes no part; a paused winner blocks.
type Entry struct {
	Rollout   string     `json:"rollout"`
	Revision  int64      `json:"revision"`
	Kind      EntryKind  `json:"kind"`
	State     EntryState `json:"state"`
	Priority  int64      `json:"priority"` // higher wins; 0 is the default
	Sequence  int64      `json:"sequence"` // order of creation
	Component string     `json:"component"`
	Release   string     `json:"release"` // the release's name
	Version   string     `json:"version"` // semver, what the device will run
	// From is the version constraint on what the device runs now. Absent: any.
	From   string `json:"from,omitempty"`
	Target Target `json:"target"`
	// Deltas pins the DeltaIndex of the target. Absent: there are no deltas.
	Deltas *Document `json:"deltas,omitempty"`
	// Models and Hardware are what the artifact runs on. Absent Hardware: any
	// revision.
	Models   []string `json:"models"`
	Hardware []string `json:"hardware,omitempty"`
	Offset   int64    `json:"offset"`  // [0, Buckets)
	Waves    []Wave   `json:"waves"`   // those that are open, in order; absent: none yet
	Windows  []Window `json:"windows"` // when installing may begin; absent: always
	// DownloadWindows is when bytes may be fetched; absent: when installing may begin, or
	// has begun. With it, downloads do not wait for Windows. Agents of before 2026-12 do
	// not know it.
	DownloadWindows []Window `json:"download_windows,omitempty"`
	// Attempts is how often a device may try before it gives up on the
	// rollout. 0 means DefaultAttempts.
	Attempts int `json:"attempts,omitempty"`
	// SettleSeconds is how long the new version must be healthy without a
	// break before it is committed. 0 means the agent's own setting.
	SettleSeconds int64 `json:"settle_s,omitempty"`
	// HealthTimeoutSeconds is how long it may take until it is. 0 means the
	// agent's own setting.
	HealthTimeoutSeconds int64 `json:"health_timeout_s,omitempty"`
	// FreshSeconds is how old the manifest may be at activation. 0 means
	// DefaultFresh.
	FreshSeconds int64 `json:"fresh_s,omitempty"`
}

// DefaultAttempts is how often a device tries one rollout.
const DefaultAttempts = 2

// Target names the artifact as the release role signed it.
type Target struct {
	Path   string `json:"path"`   // TUF target path
	Length int64  `json:"length"` // bytes
	SHA256 string `json:"sha256"` // lower-case hex
}

// Wave is one open wave: devices at positions [Start, Threshold).
type Wave struct {
	Index         int       `json:"index"` // 0 is the canary
	Start         int64     `json:"start"`
	Threshold     int64     `json:"threshold"`
	OpensAt       time.Time `json:"opens_at"`
	SpreadSeconds int64     `json:"spread_s"` // 0: all at once
}

// MaxArtifact is the largest artifact in bytes: 64 GiB.
const MaxArtifact = 64 << 30

// Validate returns a FieldError unless m can be acted upon as it stands.
func (m Manifest) Validate() error {
	if err := checkHead(m.Schema, m.Kind, string(KindManifest), m.TrustDomain, m.Version, m.Issued); err != nil {
		return err
	}
	if err := CheckID("cohort", m.Cohort); err != nil {
		return err
	}
	if m.Images == nil && len(m.Entries) > 0 {
		return invalid("images", "is absent though there are entries")
	}
	if p := m.Images; p != nil {
		if p.Version < 1 {
			return invalid("images.version", "must be at least 1")
		}
		if err := checkLength("images.length", p.Length, 16<<20); err != nil {
			return err
		}
		if err := CheckDigest("images.sha256", p.SHA256); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for i, e := range m.Entries {
		at := index("entries", i)
		if seen[e.Rollout] {
			return invalid(at+".rollout", "%q stands twice", clip(e.Rollout))
		}
		seen[e.Rollout] = true
		if err := e.validate(at); err != nil {
			return err
		}
	}
	return nil
}

func (e Entry) validate(at string) error {
	checks := []error{
		CheckID(at+".rollout", e.Rollout),
		CheckID(at+".component", e.Component),
		CheckID(at+".release", e.Release),
		CheckVersion(at+".version", e.Version),
		CheckConstraint(at+".from", e.From),
		CheckDigest(at+".target.sha256", e.Target.SHA256),
		checkLength(at+".target.length", e.Target.Length, MaxArtifact),
		oneOf(at+".kind", e.Kind, EntryUpdate, EntryRevert),
		oneOf(at+".state", e.State, EntryRunning, EntryPaused, EntryCompleted),
		notNegative(at+".settle_s", e.SettleSeconds),
		notNegative(at+".health_timeout_s", e.HealthTimeoutSeconds),
		notNegative(at+".fresh_s", e.FreshSeconds),
		notNegative(at+".attempts", int64(e.Attempts)),
		CheckWindows(at+".windows", e.Windows),
		CheckWindows(at+".download_windows", e.DownloadWindows),
		checkWaves(at+".waves", e.Waves),
		checkSlugs(at+".hardware", e.Hardware, 0),
		checkSlugs(at+".models", e.Models, 1),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	if e.Deltas != nil {
		if err := e.Deltas.validate(at+".deltas", MaxDeltaIndex); err != nil {
			return err
		}
	}
	switch {
	case e.Revision < 1:
		return invalid(at+".revision", "must be at least 1")
	case e.Sequence < 1:
		return invalid(at+".sequence", "must be at least 1")
	case e.Target.Path == "" || len(e.Target.Path) > 256:
		return invalid(at+".target.path", "must have 1 to 256 bytes")
	case e.Offset < 0 || e.Offset >= Buckets:
		return invalid(at+".offset", "must be in [0, %d)", Buckets)
	}
	return nil
}

func checkWaves(field string, waves []Wave) error {
	if len(waves) > MaxWaves {
		return invalid(field, "has more than %d waves", MaxWaves)
	}
	end, next := int64(0), 0
	for i, w := range waves {
		at := index(field, i)
		switch {
		case w.Index < next:
			return invalid(at+".index", "waves must stand in order")
		case w.Start < end:
			return invalid(at+".start", "a wave may not begin before the one before it ends")
		case w.Threshold < w.Start || w.Threshold > Buckets:
			return invalid(at+".threshold", "must be in [start, %d]", Buckets)
		case w.SpreadSeconds < 0 || w.SpreadSeconds > 366*24*3600:
			return invalid(at+".spread_s", "must be from 0 to a year")
		case w.OpensAt.IsZero():
			return invalid(at+".opens_at", "is absent")
		}
		end, next = w.Threshold, w.Index+1
	}
	return nil
}

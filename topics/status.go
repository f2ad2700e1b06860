package topics

import "time"

// State is a device's step in one deployment.
type State string

// States that a status reports. Downloading to Staged are harmless; Trying is
// the new version running on trial; the last three end an attempt.
const (
	StateWaiting     State = "waiting" // its turn has not come; Reason says why, Until when
	StateDownloading State = "downloading"
	StateVerified    State = "verified"
	StateStaged      State = "staged"
	StateTrying      State = "trying"
	StateCommitted   State = "committed"   // healthy for the settling time, and kept
	StateFailed      State = "failed"      // ended before the jump; the old version never stopped
	StateRolledBack  State = "rolled_back" // jumped, was not healthy, and is back on the old version
)

// States lists every state in the order of a deployment.
func States() []State {
	return []State{StateWaiting, StateDownloading, StateVerified, StateStaged, StateTrying, StateCommitted, StateFailed, StateRolledBack}
}

// Terminal reports whether the state ends an attempt.
func (s State) Terminal() bool {
	return s == StateCommitted || s == StateFailed || s == StateRolledBack
}

// Clock quality of a report.
const (
	ClockTrusted = "trusted" // the clock agrees with verified metadata
	ClockFloor   = "floor"   // the clock was behind; times are a lower bound
)

// Status is one step of one deployment on one device. Receivers apply per
// (device, rollout) only what is higher in (Epoch, Attempt, Sequence).
type Status struct {
	Schema    int    `json:"schema"`
	Rollout   string `json:"rollout"`
	Revision  int64  `json:"revision"` // of the entry that was acted upon
	Cohort    string `json:"cohort"`   // whose manifest delivered the entry
	Component string `json:"component"`
	Release   string `json:"release"`
	Attempt   int    `json:"attempt"` // 1 for the first
	State     State  `json:"state"`
	// Reason is a slug that counts well: "healthy", "health-http", "digest",
	// "window". Detail is for people, at most MaxText bytes. Either may be
	// absent.
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Until is when a waiting device looks again. Absent: when a manifest
	// changes.
	Until *time.Time `json:"until,omitempty"`
	// From is the version before the attempt, Running what runs now (of the
	// component), Target what is being installed.
	From    string `json:"from"`
	Running string `json:"running"`
	Target  string `json:"target"`
	// SlotDigest is the SHA-256 of the active slot's artifact, lower-case hex.
	// Absent while it is not known.
	SlotDigest string `json:"slot_digest,omitempty"`
	// BootID changes with each launch of the component (a machine's boot, or
	// a supervised process's launch). PreviousBootID is the one from before
	// the activation; committed needs the two to differ.
	BootID         string `json:"boot_id"`
	PreviousBootID string `json:"previous_boot_id,omitempty"`
	// DownloadedBytes so far, and Bytes in all, while downloading.
	DownloadedBytes int64 `json:"downloaded_bytes,omitempty"`
	Bytes           int64 `json:"bytes,omitempty"`
	// Transfer is where the bytes came from, in this attempt, from Verified on and in
	// what ends it. Absent: an older agent, or nothing came yet.
	Transfer *Transfer `json:"transfer,omitempty"`
	// PeerFaults is how often other devices of the site were wrong or failed, in this
	// attempt, from Verified on and in what ends it. Absent: an older agent, or none did.
	PeerFaults *PeerFaults `json:"peer_faults,omitempty"`
	// Epoch is the journal's (a factory reset begins a new, higher one);
	// Sequence counts all reports of the epoch from 1.
	Epoch    int64     `json:"epoch"`
	Sequence int64     `json:"sequence"`
	Clock    string    `json:"clock"`
	At       time.Time `json:"at"`
}

// Validate returns a FieldError unless s can be stored.
func (s Status) Validate() error {
	checks := []error{
		checkSchema(s.Schema),
		CheckID("rollout", s.Rollout),
		CheckID("cohort", s.Cohort),
		CheckID("component", s.Component),
		CheckID("release", s.Release),
		oneOf("state", s.State, States()...),
		CheckVersion("from", s.From),
		CheckVersion("running", s.Running),
		CheckVersion("target", s.Target),
		optional(s.Reason, func(v string) error { return CheckID("reason", v) }),
		optional(s.SlotDigest, func(v string) error { return CheckDigest("slot_digest", v) }),
		checkText("detail", s.Detail, MaxText),
		CheckID("boot_id", s.BootID),
		optional(s.PreviousBootID, func(v string) error { return CheckID("previous_boot_id", v) }),
		notNegative("downloaded_bytes", s.DownloadedBytes),
		notNegative("bytes", s.Bytes),
		oneOf("clock", s.Clock, ClockTrusted, ClockFloor),
		checkOrder(s.Epoch, s.Sequence),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	if s.Transfer != nil {
		if err := s.Transfer.validate("transfer"); err != nil {
			return err
		}
	}
	if s.PeerFaults != nil {
		if err := s.PeerFaults.validate("peer_faults"); err != nil {
			return err
		}
	}
	switch {
	case s.Revision < 1:
		return invalid("revision", "must be at least 1")
	case s.Attempt < 1 || s.Attempt > 1000:
		return invalid("attempt", "must be from 1 to 1000")
	case s.At.IsZero():
		return invalid("at", "is absent")
	case s.State == StateCommitted && s.PreviousBootID == s.BootID:
		return invalid("boot_id", "committed needs a boot other than the one before the activation")
	case s.State == StateCommitted && s.PreviousBootID == "":
		return invalid("previous_boot_id", "committed needs it")
	case s.State == StateCommitted && s.Running != s.Target:
		return invalid("running", "committed, but it runs %q instead of %q", s.Running, s.Target)
	}
	return nil
}

// Log is a bounded piece of a device's log.
type Log struct {
	Schema   int       `json:"schema"`
	Rollout  string    `json:"rollout,omitempty"` // what it belongs to; absent: nothing
	Attempt  int       `json:"attempt,omitempty"`
	Source   string    `json:"source"` // "agent" or a component
	Text     string    `json:"text"`
	Epoch    int64     `json:"epoch"`
	Sequence int64     `json:"sequence"`
	At       time.Time `json:"at"`
}

// Validate returns a FieldError unless l can be stored.
func (l Log) Validate() error {
	checks := []error{
		checkSchema(l.Schema),
		optional(l.Rollout, func(v string) error { return CheckID("rollout", v) }),
		CheckID("source", l.Source),
		checkText("text", l.Text, MaxLog),
		checkOrder(l.Epoch, l.Sequence),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

package topics

import (
	"time"
)

// Assignment is what fleetd tells one device about itself: the body of the
// director-signed metadata on DeviceAssignment.
type Assignment struct {
	Schema      int       `json:"schema"`
	Kind        string    `json:"kind"` // always "assignment"
	TrustDomain string    `json:"trust_domain"`
	Device      string    `json:"device"`
	Version     int64     `json:"version"` // only ever grows, per device
	Issued      time.Time `json:"issued"`
	// Cohorts are those that the device is in; it decides only when it holds
	// the manifest of each. Empty: it has nothing to do but wait.
	Cohorts []string `json:"cohorts"`
	// TimeZone is the IANA name by which windows are read. Absent: the
	// device's own setting.
	TimeZone  string    `json:"time_zone,omitempty"`
	Polling   Polling   `json:"polling"`
	Telemetry Telemetry `json:"telemetry"`
	// Sources are base URLs for artifacts and image metadata, in order of
	// preference. Absent: the device's own setting. They need no trust.
	Sources []string `json:"sources,omitempty"`
}

// Mode is how a device stays in touch.
type Mode string

// Modes.
const (
	ModeConnected Mode = "connected" // a session that stays up
	ModePolling   Mode = "polling"   // connects on a schedule, for batteries
)

// Polling is the connection policy.
type Polling struct {
	// Mode absent: the device's own setting.
	Mode Mode `json:"mode,omitempty"`
	// IntervalSeconds between two connections when polling. 0: the device's
	// own setting.
	IntervalSeconds int64 `json:"interval_s,omitempty"`
	// JitterSeconds is added at random, uniformly from [0, jitter).
	JitterSeconds int64 `json:"jitter_s,omitempty"`
}

// Telemetry is the reporting policy.
type Telemetry struct {
	// HeartbeatSeconds between heartbeats. 0: the device's own setting.
	HeartbeatSeconds int64 `json:"heartbeat_s,omitempty"`
}

// Validate returns a FieldError unless a can be acted upon as it stands.
func (a Assignment) Validate() error {
	if err := checkHead(a.Schema, a.Kind, string(KindAssignment), a.TrustDomain, a.Version, a.Issued); err != nil {
		return err
	}
	if len(a.Cohorts) > MaxCohorts {
		return invalid("cohorts", "a device is in at most %d cohorts", MaxCohorts)
	}
	checks := []error{
		CheckID("device", a.Device),
		checkSlugs("cohorts", a.Cohorts, 0),
		CheckTimeZone("time_zone", a.TimeZone),
		oneOf("polling.mode", a.Polling.Mode, "", ModeConnected, ModePolling),
		notNegative("polling.interval_s", a.Polling.IntervalSeconds),
		notNegative("polling.jitter_s", a.Polling.JitterSeconds),
		notNegative("telemetry.heartbeat_s", a.Telemetry.HeartbeatSeconds),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

// CommandAction is what a command asks for.
type CommandAction string

// Commands.
const (
	CommandReport CommandAction = "report" // send a heartbeat now
	CommandLogs   CommandAction = "logs"   // send the last log lines
	CommandRetry  CommandAction = "retry"  // forget the failed attempts of Rollout
)

// Command asks one device for something once: the body of the director-signed
// metadata on DeviceCommand. Version is the device's command counter; a device
// obeys only a higher one than any before, so a repeated command is harmless.
type Command struct {
	Schema      int           `json:"schema"`
	Kind        string        `json:"kind"` // always "command"
	TrustDomain string        `json:"trust_domain"`
	Device      string        `json:"device"`
	Version     int64         `json:"version"`
	Issued      time.Time     `json:"issued"`
	ID          string        `json:"id"` // echoed in the heartbeat that answers it
	Action      CommandAction `json:"action"`
	Rollout     string        `json:"rollout,omitempty"` // for retry
}

// Validate returns a FieldError unless c can be acted upon as it stands.
func (c Command) Validate() error {
	if err := checkHead(c.Schema, c.Kind, string(KindCommand), c.TrustDomain, c.Version, c.Issued); err != nil {
		return err
	}
	checks := []error{
		CheckID("device", c.Device),
		CheckID("id", c.ID),
		oneOf("action", c.Action, CommandReport, CommandLogs, CommandRetry),
	}
	if c.Action == CommandRetry {
		checks = append(checks, CheckID("rollout", c.Rollout))
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

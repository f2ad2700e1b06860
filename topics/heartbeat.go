package topics

import "time"

// Heartbeat is a device's telemetry, and its word on what it runs.
type Heartbeat struct {
	Schema int `json:"schema"`
	// Versions is what runs, by component: the truth that the registry
	// believes, whatever was sent.
	Versions map[string]string `json:"versions"`
	// BootID is that of the component; of several, that of the first that is
	// installed.
	BootID string `json:"boot_id"`
	Mode   Mode   `json:"mode"`
	// IntervalSeconds is the longest time that may pass between two check-ins
	// of a polling device, jitter included, as it goes by now: its assignment's
	// or its own setting. Absent: it stays connected, or is older than this
	// field. Receivers take more than a year for a year.
	IntervalSeconds int64 `json:"interval_s,omitempty"`
	// ModeReason says why Mode is not the one that was assigned or set:
	// ModeReasonBattery. Absent: it is, or the agent is older than this field.
	ModeReason string `json:"mode_reason,omitempty"`
	// Agent is the agent's own version.
	Agent string `json:"agent"`
	// UptimeSeconds of the machine.
	UptimeSeconds int64 `json:"uptime_s"`
	// BatteryPercent is absent on mains power.
	BatteryPercent *int64 `json:"battery_pct,omitempty"`
	Charging       bool   `json:"charging,omitempty"`
	// SignalDBm is absent without a radio.
	SignalDBm *int64 `json:"signal_dbm,omitempty"`
	// DiskFreeBytes where artifacts are staged. Absent when unknown.
	DiskFreeBytes *int64 `json:"disk_free_bytes,omitempty"`
	// Metrics are health figures of the firmware, at most MaxMetrics, by slug.
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// CheckInMillis is how long the newest check-in took: from CONNECT to the
	// manifest of every assigned cohort received. 0: none complete yet.
	CheckInMillis int64 `json:"check_in_ms,omitempty"`
	// Manifests is the version held, by cohort.
	Manifests map[string]int64 `json:"manifests,omitempty"`
	// Assignment is the assignment version held. 0: none.
	Assignment int64 `json:"assignment,omitempty"`
	// Command is the id of the last command obeyed. Absent: none.
	Command  string    `json:"command,omitempty"`
	TimeZone string    `json:"time_zone,omitempty"`
	Epoch    int64     `json:"epoch"`
	Sequence int64     `json:"sequence"`
	Clock    string    `json:"clock"`
	At       time.Time `json:"at"`
}

// ModeReasonBattery: the battery is low, so the device polls until it is not.
const ModeReasonBattery = "battery"

// MaxMetrics is how many health figures a heartbeat may carry.
const MaxMetrics = 32

// MaxComponents is how many components a device may have.
const MaxComponents = 16

// Validate returns a FieldError unless h can be stored.
func (h Heartbeat) Validate() error {
	checks := []error{
		checkSchema(h.Schema),
		CheckID("boot_id", h.BootID),
		oneOf("mode", h.Mode, ModeConnected, ModePolling),
		notNegative("interval_s", h.IntervalSeconds),
		optional(h.ModeReason, func(v string) error { return CheckID("mode_reason", v) }),
		CheckVersion("agent", h.Agent),
		notNegative("uptime_s", h.UptimeSeconds),
		notNegative("check_in_ms", h.CheckInMillis),
		optional(h.Command, func(v string) error { return CheckID("command", v) }),
		oneOf("clock", h.Clock, ClockTrusted, ClockFloor),
		checkOrder(h.Epoch, h.Sequence),
		checkText("time_zone", h.TimeZone, MaxIDLength),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	if len(h.Versions) == 0 || len(h.Versions) > MaxComponents {
		return invalid("versions", "must name 1 to %d components", MaxComponents)
	}
	for component, version := range h.Versions {
		if err := CheckID("versions", component); err != nil {
			return err
		}
		if err := CheckVersion("versions."+component, version); err != nil {
			return err
		}
	}
	if len(h.Metrics) > MaxMetrics {
		return invalid("metrics", "has more than %d figures", MaxMetrics)
	}
	for name := range h.Metrics {
		if err := CheckID("metrics", name); err != nil {
			return err
		}
	}
	if len(h.Manifests) > MaxCohorts {
		return invalid("manifests", "names more than %d cohorts", MaxCohorts)
	}
	for cohort := range h.Manifests {
		if err := CheckID("manifests", cohort); err != nil {
			return err
		}
	}
	if b := h.BatteryPercent; b != nil && (*b < 0 || *b > 100) {
		return invalid("battery_pct", "must be from 0 to 100")
	}
	if h.At.IsZero() {
		return invalid("at", "is absent")
	}
	return nil
}

// Presence is the broker's word that a device came or went. Attributes are
// those of its certificate.
type Presence struct {
	Schema    int    `json:"schema"`
	Connected bool   `json:"connected"`
	Reason    string `json:"reason,omitempty"` // of a disconnect: "client", "keepalive", "taken-over", "slow", "revoked", "shutdown", "error", "lost" (the broker died)
	Model     string `json:"model"`
	Hardware  string `json:"hardware"`
	// Connection numbers a device's connections; a disconnect belongs to the
	// connect of the same number, and a higher number is newer.
	Connection int64     `json:"connection"`
	Node       string    `json:"node"`
	At         time.Time `json:"at"`
}

// Validate returns a FieldError unless p can be stored.
func (p Presence) Validate() error {
	checks := []error{
		checkSchema(p.Schema),
		optional(p.Reason, func(v string) error { return CheckID("reason", v) }),
		CheckID("model", p.Model),
		CheckID("hardware", p.Hardware),
		CheckID("node", p.Node),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

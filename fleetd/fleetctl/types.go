package main

import "time"

// What fleetd answers, as far as the tables show it. Unknown fields are kept
// for -o json, which prints the answer itself.

type release struct {
	Component     string    `json:"component"`
	Name          string    `json:"name"`
	Version       string    `json:"version"`
	Path          string    `json:"path"`
	Length        int64     `json:"length"`
	SHA256        string    `json:"sha256"`
	Models        []string  `json:"models"`
	Hardware      []string  `json:"hardware"`
	SecurityFloor string    `json:"security_floor"`
	Requires      []require `json:"requires"`
	Index         *pinned   `json:"index"`
	CreatedAt     time.Time `json:"created_at"`
}

// pinned is bytes that something pins by their digest.
type pinned struct {
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

type require struct {
	Component string `json:"component"`
	Versions  string `json:"versions"`
}

type cohort struct {
	Name            string     `json:"name"`
	Description     string     `json:"description"`
	Selector        string     `json:"selector"`
	Devices         []string   `json:"devices"`
	Members         int        `json:"members"`
	ManifestVersion int64      `json:"manifest_version"`
	PublishedAt     *time.Time `json:"published_at"`
	Revision        int64      `json:"revision"`
}

type device struct {
	ID            string             `json:"id"`
	Revision      int64              `json:"revision"`
	Model         string             `json:"model"`
	Hardware      string             `json:"hardware"`
	Region        string             `json:"region"`
	Customer      string             `json:"customer"`
	TimeZone      string             `json:"time_zone"`
	Labels        map[string]string  `json:"labels"`
	Polling       int64              `json:"polling_s"`
	Bucket        int64              `json:"bucket"`
	Connected     bool               `json:"connected"`
	Node          string             `json:"node"`
	Mode          string             `json:"mode"`
	Heartbeat     heartbeat          `json:"heartbeat"`
	Agent         string             `json:"agent"`
	Versions      map[string]string  `json:"versions"`
	Targets       map[string]target  `json:"targets"`
	Installs      map[string]install `json:"installs"`
	FirstContact  *time.Time         `json:"first_contact"`
	LastContact   *time.Time         `json:"last_contact"`
	LastCheckIn   *time.Time         `json:"last_check_in"`
	CheckInMillis int64              `json:"check_in_ms"`
	Cohorts       []string           `json:"cohorts"`
}

// heartbeat is what is shown of a device's newest one.
type heartbeat struct {
	IntervalSeconds int64  `json:"interval_s"`
	ModeReason      string `json:"mode_reason"`
	BatteryPercent  *int64 `json:"battery_pct"`
	Charging        bool   `json:"charging"`
}

// target is what a device is told to run of a component.
type target struct {
	Rollout string `json:"rollout"`
	Kind    string `json:"kind"`
	State   string `json:"state"`
	Version string `json:"version"`
	Reached bool   `json:"reached"`
}

// install is the newest step that a device reported of a component.
type install struct {
	Rollout string     `json:"rollout"`
	Version string     `json:"version"`
	State   string     `json:"state"`
	Reason  string     `json:"reason"`
	Attempt int        `json:"attempt"`
	At      *time.Time `json:"at"`
}

type rollout struct {
	ID       string `json:"id"`
	Revision int64  `json:"revision"`
	Kind     string `json:"kind"`
	State    string `json:"state"`
	Release  struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"release"`
	Component string        `json:"component"`
	Cohorts   []string      `json:"cohorts"`
	Canary    string        `json:"canary_cohort"`
	From      string        `json:"from"`
	Reason    string        `json:"reason"`
	CreatedBy string        `json:"created_by"`
	CreatedAt *time.Time    `json:"created_at"`
	StartedAt *time.Time    `json:"started_at"`
	Waves     []wave        `json:"waves"`
	Stones    []stone       `json:"stepping_stones"`
	Warnings  []string      `json:"warnings"`
	Deltas    []deltaSource `json:"deltas"`
	Transfer  *transfers    `json:"transfer"`
}

// stone is devices that have to pass through other releases first.
type stone struct {
	From    string `json:"from"`
	Devices int    `json:"devices"`
	Path    []struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"path"`
	Rollout string `json:"rollout"`
	Stays   bool   `json:"stays"`
}

type wave struct {
	Index    int        `json:"index"`
	Percent  float64    `json:"percent"`
	State    string     `json:"state"`
	OpenedAt *time.Time `json:"opened_at"`
	ClosedAt *time.Time `json:"closed_at"`
	Members  int        `json:"members"`
	Counts   counts     `json:"counts"`
	Gate     string     `json:"gate"` // what the open wave waits for
}

type counts struct {
	Waiting     int `json:"waiting"`
	Downloading int `json:"downloading"`
	Verified    int `json:"verified"`
	Staged      int `json:"staged"`
	Trying      int `json:"trying"`
	Committed   int `json:"committed"`
	Failed      int `json:"failed"`
	RolledBack  int `json:"rolled_back"`
	Silent      int `json:"silent"`
	Unreached   int `json:"unreached"`
	Absent      int `json:"absent"`
}

// busy is how many devices are between their start and an outcome.
func (c counts) busy() int { return c.Downloading + c.Verified + c.Staged + c.Trying }

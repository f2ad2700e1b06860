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
	CreatedAt     time.Time `json:"created_at"`
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
	ID          string            `json:"id"`
	Model       string            `json:"model"`
	Hardware    string            `json:"hardware"`
	Region      string            `json:"region"`
	Customer    string            `json:"customer"`
	TimeZone    string            `json:"time_zone"`
	Connected   bool              `json:"connected"`
	Mode        string            `json:"mode"`
	Versions    map[string]string `json:"versions"`
	LastContact *time.Time        `json:"last_contact"`
	Cohorts     []string          `json:"cohorts"`
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
	Component string     `json:"component"`
	Cohorts   []string   `json:"cohorts"`
	Canary    string     `json:"canary_cohort"`
	From      string     `json:"from"`
	Reason    string     `json:"reason"`
	CreatedBy string     `json:"created_by"`
	CreatedAt *time.Time `json:"created_at"`
	StartedAt *time.Time `json:"started_at"`
	Waves     []wave     `json:"waves"`
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

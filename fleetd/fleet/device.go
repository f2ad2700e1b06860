package fleet

import (
	"sort"
	"strings"
	"time"

	"groundswell/topics"
)

// Device is one device of the fleet. Model and Hardware are from its
// certificate, the attributes from operators, the rest is what it reported.
// Zero times mean never.
type Device struct {
	ID       string
	Model    string // absent until the first contact of a pre-registered device
	Hardware string
	DeviceAttributes
	Bucket            int64
	Revision          int64 // of model, hardware and attributes; reports do not change it
	Cohorts           []string
	AssignmentVersion int64

	Connected     bool
	Node          string // broker node of the newest connection
	Mode          topics.Mode
	Versions      map[string]string // what runs, by component, as the device says
	Agent         string
	CheckInMillis int64
	FirstContact  time.Time
	LastContact   time.Time
	LastCheckIn   time.Time
	// Heartbeat is the newest one as it came (JSON). Absent: none yet.
	Heartbeat []byte
	// Targets and Installs are by component: what the device is told to run, and
	// the newest step that it reported.
	Targets  map[string]Target
	Installs map[string]Install
}

// DeviceAttributes are what operators say about a device.
type DeviceAttributes struct {
	Region   string
	Customer string
	// TimeZone is an IANA name. Absent: the device's own setting.
	TimeZone string
	Labels   map[string]string
	// PollingSeconds is the interval of a polling device. 0: its own setting.
	PollingSeconds int64
}

// MaxPollingSeconds is the longest interval of a polling device: a year.
const MaxPollingSeconds = 366 * 24 * 3600

// LabelDecommissioned on a device, whatever its value, says that its life has
// ended: it gets no new certificate. Selectors may leave it out.
const LabelDecommissioned = "decommissioned"

// MaxLabels is how many labels a device may have.
const MaxLabels = 32

// Validate returns a FieldError below pointer.
func (a DeviceAttributes) Validate(pointer string) error {
	err := firstError(
		optionalID(pointer+"/region", a.Region),
		optionalID(pointer+"/customer", a.Customer),
		pointed(pointer+"/time_zone", topics.CheckTimeZone("", a.TimeZone)),
	)
	if err != nil {
		return err
	}
	if a.PollingSeconds < 0 || a.PollingSeconds > MaxPollingSeconds {
		return Invalid(pointer+"/polling_s", "must be from 0 to a year")
	}
	if len(a.Labels) > MaxLabels {
		return Invalid(pointer+"/labels", "has more than %d labels", MaxLabels)
	}
	for _, key := range sortedKeys(a.Labels) {
		at := pointer + "/labels/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
		if err := firstError(checkID(at, key), checkID(at, a.Labels[key])); err != nil {
			return err
		}
	}
	return nil
}

// CheckDeviceID returns a FieldError at pointer unless id is a legal device id.
func CheckDeviceID(pointer, id string) error { return checkID(pointer, id) }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// DeviceFilter selects devices. Absent fields admit all.
type DeviceFilter struct {
	Cohort, Model, Hardware, Region, Customer string
	// Component is what Version and Below speak of; default topics.DefaultComponent
	// when one of them stands.
	Component string
	Version   string // runs exactly this
	Below     string // runs a lower one; "2.0" means 2.0.0
	State     topics.State
	Rollout   string // whose State; absent: of any running rollout
	Connected *bool
}

// Validate returns a FieldError that points at the query parameter.
func (f DeviceFilter) Validate() error {
	err := firstError(
		optionalID("/cohort", f.Cohort), optionalID("/model", f.Model), optionalID("/hardware", f.Hardware),
		optionalID("/region", f.Region), optionalID("/customer", f.Customer), optionalID("/component", f.Component),
	)
	if err != nil {
		return err
	}
	if f.Version != "" {
		if err := pointed("/version", topics.CheckVersion("", f.Version)); err != nil {
			return err
		}
	}
	if f.Below != "" {
		if err := pointed("/below", topics.CheckVersion("", FullVersion(f.Below))); err != nil {
			return err
		}
	}
	return CheckDeviceState("/state", f.State)
}

// CheckDeviceState returns a FieldError unless s is absent or a state that a
// device reports.
func CheckDeviceState(pointer string, s topics.State) error {
	if s == "" {
		return nil
	}
	for _, known := range topics.States() {
		if s == known {
			return nil
		}
	}
	return Invalid(pointer, "%q is not a state of a device", string(s))
}

// Report is one status in a device's history.
type Report struct {
	Device, Rollout, Cohort, Component, Release string
	Revision                                    int64
	State                                       topics.State
	Reason, Detail                              string
	From, Running, Target                       string
	Attempt                                     int
	Epoch, Sequence                             int64
	At                                          time.Time // by the device's clock
	Stored                                      time.Time // by the broker's
}

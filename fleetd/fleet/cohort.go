package fleet

import (
	"maps"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"groundswell/topics"
)

// Cohort is a named set of devices: those that a selector matches, or a list.
type Cohort struct {
	CohortSpec
	Members         int64
	ManifestVersion int64
	PublishedAt     time.Time // of the newest manifest, on the broker; zero: not yet
	CreatedAt       time.Time
	Revision        int64
}

// CohortSpec is what operators say about a cohort. Exactly one of Selector and
// Devices stands.
type CohortSpec struct {
	Name        string
	Description string
	// Selector is in the grammar of Kubernetes label selectors, over model,
	// hardware, region, customer, time_zone ('/' written as "__") and labels,
	// which are called label.<key> or, when no attribute has that name, <key>.
	Selector string
	Devices  []string
}

// MaxCohortDevices is how many ids a cohort's list may have.
const MaxCohortDevices = 100_000

// Validate returns a FieldError.
func (c CohortSpec) Validate() error {
	if err := checkID("/name", c.Name); err != nil {
		return err
	}
	if err := CheckText("/description", c.Description); err != nil {
		return err
	}
	switch {
	case c.Selector != "" && len(c.Devices) > 0:
		return Invalid("/devices", "a cohort has a selector or a list of devices, not both")
	case c.Selector == "" && c.Devices == nil:
		return Invalid("/selector", "a cohort needs a selector or a list of devices (the selector \"model\" matches every device that was ever seen)")
	case c.Selector != "":
		_, err := ParseSelector(c.Selector)
		return err
	case len(c.Devices) > MaxCohortDevices:
		return Invalid("/devices", "has more than %d devices", MaxCohortDevices)
	}
	seen := make(map[string]bool, len(c.Devices))
	for i, id := range c.Devices {
		if err := checkID(index("/devices", i), id); err != nil {
			return err
		}
		if seen[id] {
			return Invalid(index("/devices", i), "%q stands twice", id)
		}
		seen[id] = true
	}
	return nil
}

// Selector decides whether a device belongs to a cohort.
type Selector struct{ parsed labels.Selector }

// attributes are the keys of a selector that are no labels.
var attributes = map[string]bool{"model": true, "hardware": true, "region": true, "customer": true, "time_zone": true}

// ParseSelector reads a selector. The refusal points at /selector.
func ParseSelector(text string) (Selector, error) {
	if len(text) > topics.MaxText {
		return Selector{}, Invalid("/selector", "has more than %d bytes", topics.MaxText)
	}
	parsed, err := labels.Parse(text)
	if err != nil {
		return Selector{}, Invalid("/selector", "%v", err)
	}
	requirements, _ := parsed.Requirements()
	if len(requirements) == 0 {
		return Selector{}, Invalid("/selector", "is empty")
	}
	for _, r := range requirements {
		key := strings.TrimPrefix(r.Key(), "label.")
		if !topics.ValidID(key) && !attributes[r.Key()] {
			return Selector{}, Invalid("/selector", "%q is neither an attribute (model, hardware, region, customer, time_zone) nor a label", r.Key())
		}
	}
	return Selector{parsed}, nil
}

// Matches reports whether d belongs. An attribute that is absent is a label
// that is not there.
func (s Selector) Matches(d Device) bool {
	set := labels.Set{}
	maps.Copy(set, d.Labels)
	for key, value := range d.Labels {
		set["label."+key] = value
	}
	for key, value := range map[string]string{
		"model": d.Model, "hardware": d.Hardware, "region": d.Region, "customer": d.Customer,
		"time_zone": strings.ReplaceAll(d.TimeZone, "/", "__"),
	} {
		delete(set, key)
		if value != "" {
			set[key] = value
		}
	}
	return s.parsed.Matches(set)
}

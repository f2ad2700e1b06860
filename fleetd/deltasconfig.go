package main

import (
	"errors"
	"runtime"
	"strings"
	"time"
	"unicode"

	"groundswell/fleetd/fleet"
)

// Deltas is how deltas are made, from what devices run to what they are to run.
// See docs/artifacts.md.
type Deltas struct {
	// PerRelease is from how many versions deltas are made of one release, the most
	// common first. 0: from none, and no rollout waits for any. All replicas should
	// say the same.
	PerRelease int `yaml:"per_release"`
	// Jobs is how many are made at once by this replica. 0: others make them.
	Jobs int `yaml:"jobs"`
	// CPUs is how many processors one job uses. 0: half of those that there are.
	CPUs int `yaml:"cpus"`
	// Memory is how many bytes of memory one job may take, besides what the page cache holds of
	// its artifacts. With less than it needs less of a large old artifact is looked through;
	// what has no room even so is not tried, and a job that takes more is ended.
	Memory int64 `yaml:"memory"`
	// Timeout ends a job that takes longer.
	Timeout time.Duration `yaml:"timeout"`
	// Coder is how deltas are coded where a rollout's policy does not say: mixed (smaller),
	// zstd (which devices decode in a tenth of the time), or auto: zstd from versions that
	// mostly devices run which poll, mixed from the others.
	Coder string `yaml:"coder"`
	// Dir is where a job keeps both artifacts while it works. Empty: where temporary
	// files belong.
	Dir string `yaml:"dir"`
	// PublishEvery is how long a delta waits for others before devices hear of it: the
	// manifests are signed anew for all of them together.
	PublishEvery time.Duration `yaml:"publish_every"`
}

// Costs is what a byte costs, for previews.
type Costs struct {
	PricePerGB float64 `yaml:"price_per_gb"` // of 10^9 bytes; 0: not known
	Currency   string  `yaml:"currency"`     // such as EUR; what is shown behind the number
}

func defaultDeltas() Deltas {
	return Deltas{PerRelease: 50, Jobs: 1, Memory: 2 << 30, Timeout: time.Hour, Coder: "mixed", PublishEvery: time.Minute}
}

func (d Deltas) cpus() int {
	if d.CPUs > 0 {
		return d.CPUs
	}
	return max(1, runtime.NumCPU()/2)
}

func (c *Config) validateDeltas() error {
	d := c.Deltas
	switch {
	case d.PerRelease < 0 || d.PerRelease > 500:
		return errors.New("deltas.per_release: must be from 0 to 500")
	case d.Jobs < 0 || d.Jobs > 64:
		return errors.New("deltas.jobs: must be from 0 to 64")
	case d.CPUs < 0 || d.CPUs > 1024:
		return errors.New("deltas.cpus: must be from 0 to 1024")
	case d.Memory < 128<<20:
		return errors.New("deltas.memory: must be at least 134217728 (128 MiB)")
	case d.Timeout < time.Second || d.Timeout > 7*24*time.Hour:
		return errors.New("deltas.timeout: must be from 1s to 168h")
	case d.Coder == "" || fleet.CheckCoder("", d.Coder) != nil || strings.HasPrefix(d.Coder, fleet.CoderPlain):
		return errors.New("deltas.coder: must be mixed, zstd or auto")
	case d.PublishEvery < time.Second || d.PublishEvery > time.Hour:
		return errors.New("deltas.publish_every: must be from 1s to 1h")
	case !(c.Costs.PricePerGB >= 0 && c.Costs.PricePerGB <= 1e6):
		return errors.New("costs.price_per_gb: must be from 0 to 1000000")
	case len(c.Costs.Currency) > 8:
		return errors.New("costs.currency: must have at most 8 bytes")
	}
	for _, r := range c.Costs.Currency {
		if !unicode.IsPrint(r) {
			return errors.New("costs.currency: must be printable")
		}
	}
	return nil
}

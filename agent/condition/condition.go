// Package condition says what a device wants before it takes a release: enough battery,
// no application in the middle of something, somebody's consent, or whatever a command
// can find out. What does not hold makes the device wait, and it reports why and until
// when; what cannot be found out does not hold.
package condition

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"groundswell/topics"
)

// Config is what must hold. The zero value: nothing.
type Config struct {
	// Lock is a file that applications lock, shared (flock(2), LOCK_SH; in a shell,
	// flock -s), while nothing may be installed. Who has died holds no lock. The agent
	// makes the file, and holds the lock itself while it installs and, for a moment,
	// while it looks: applications should wait for it (flock -s -w 5).
	Lock string `yaml:"lock"`
	// Battery is about the charge.
	Battery Battery `yaml:"battery"`
	// Facts are found out by commands.
	Facts []Fact `yaml:"facts"`
	// Again is the time between two looks at the lock and the battery. Default 30 s.
	Again time.Duration `yaml:"again"`
}

// Battery says how much charge there must be. A device without a battery has enough, also
// where the kernel knows of a place for one (present is 0): it runs on mains.
type Battery struct {
	// MinPercent of every battery. 0: any.
	MinPercent int `yaml:"min_percent"`
	// External power: "enough" makes up for any charge, "needed" must be there
	// besides. Empty: it does not matter.
	External string `yaml:"external"`
	// Dir is where the kernel tells. Default /sys/class/power_supply.
	Dir string `yaml:"dir"`
}

// The values of Battery.External.
const (
	ExternalEnough = "enough"
	ExternalNeeded = "needed"
)

// Fact is found out by a command: exit status 0, it holds; 21, not now, and the first
// line that it prints says why; anything else, an error, and it does not hold.
type Fact struct {
	// Name stands in reports, as the reason "fact-NAME".
	Name string `yaml:"name"`
	// Command is asked each time; it may take a minute.
	Command []string `yaml:"command"`
	// Before is "install" (default), or "download": then it must hold before bytes are
	// fetched as well.
	Before string `yaml:"before"`
	// Again is the time between two questions. Default 5 min.
	Again time.Duration `yaml:"again"`
}

// Phase is what is about to be done.
type Phase string

// The phases.
const (
	Download Phase = "download"
	Install  Phase = "install"
)

// Hold is why the device has to wait.
type Hold struct {
	Reason string // a slug
	Detail string // for people; may be empty
	// Again is after how long to look again.
	Again time.Duration
	// Until is when it will be over, as far as anybody knows. Zero: after Again, perhaps.
	Until time.Time
}

// The reasons of holds, besides those of facts.
const (
	ReasonLock    = "lock"
	ReasonBattery = "battery"
	prefixFact    = "fact-"
)

// DefaultAgain is Config.Again, and defaultFact Fact.Again, where they are 0.
const (
	DefaultAgain = 30 * time.Second
	defaultFact  = 5 * time.Minute
)

// Validate names the key that is wrong.
func (c *Config) Validate() error {
	if c.Lock != "" && !filepath.IsAbs(c.Lock) {
		return errors.New("lock: must be an absolute path")
	}
	if c.Again < 0 {
		return errors.New("again: must be above 0")
	}
	if p := c.Battery.MinPercent; p < 0 || p > 100 {
		return errors.New("battery.min_percent: must be from 0 to 100")
	}
	if e := c.Battery.External; e != "" && e != ExternalEnough && e != ExternalNeeded {
		return fmt.Errorf("battery.external: %q is neither %s nor %s", e, ExternalEnough, ExternalNeeded)
	}
	for i, f := range c.Facts {
		key := fmt.Sprintf("facts[%d].", i)
		switch {
		case topics.CheckID("name", prefixFact+f.Name) != nil:
			return topics.CheckID(key+"name", prefixFact+f.Name)
		case len(f.Command) == 0 || !filepath.IsAbs(f.Command[0]):
			return fmt.Errorf("%scommand: must begin with an absolute path", key)
		case f.Before != "" && f.Before != string(Install) && f.Before != string(Download):
			return fmt.Errorf("%sbefore: %q is neither %s nor %s", key, f.Before, Install, Download)
		case f.Again < 0:
			return fmt.Errorf("%sagain: must be above 0", key)
		}
	}
	return nil
}

// Seize takes the lock, so that no application begins with something that must not be
// interrupted, until release is called or the agent ends. If one has it, that is a hold.
func (c *Config) Seize() (release func(), hold *Hold) {
	release, detail, held := seize(c.Lock)
	if !held {
		return release, nil
	}
	again := c.Again
	if again == 0 {
		again = DefaultAgain
	}
	return nil, &Hold{Reason: ReasonLock, Detail: detail, Again: again}
}

// Look returns what does not hold before a phase, the first of all; nil if all does.
func (c *Config) Look(ctx context.Context, phase Phase) *Hold {
	if phase == Install {
		again := c.Again
		if again == 0 {
			again = DefaultAgain
		}
		release, detail, held := seize(c.Lock)
		release()
		if held {
			return &Hold{Reason: ReasonLock, Detail: detail, Again: again}
		}
		if detail, low := c.Battery.low(); low {
			return &Hold{Reason: ReasonBattery, Detail: detail, Again: again}
		}
	}
	for _, f := range c.Facts {
		if phase == Download && f.Before != string(Download) {
			continue
		}
		if detail, holds := f.Ask(ctx); !holds {
			again := f.Again
			if again == 0 {
				again = defaultFact
			}
			return &Hold{Reason: prefixFact + f.Name, Detail: detail, Again: again}
		}
	}
	return nil
}

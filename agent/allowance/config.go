package allowance

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"groundswell/topics"
)

// Config is what downloads may cost. The zero value: there are no limits. What peers bring
// (agent/peers) costs nothing of it, and is taken also while nothing may be downloaded, but
// for metered links.
type Config struct {
	// Rate is how many bytes a second may come, of all downloads together, and Burst how
	// many at once after a pause; at least 4096 and 16384. The session with the broker does
	// not count. 0: any number; a second's worth.
	Rate  int64 `yaml:"rate"`
	Burst int64 `yaml:"burst"`
	// DailyBudget is how many bytes may be used in a day of the device's time zone. Image
	// metadata counts, but is fetched in any case. 0: any number.
	DailyBudget int64 `yaml:"daily_budget"`
	// Windows are when bytes may be fetched, in the device's time zone, besides what a
	// rollout says. None: always.
	Windows []topics.Window `yaml:"windows"`
	// Metered is about links that cost by the byte.
	Metered Metered `yaml:"metered"`
}

// Metered is what to do on a link that costs by the byte.
type Metered struct {
	// Unmetered is a command that finds out about the link, as a fact of the conditions
	// does: exit status 0, it costs nothing; 21, it is metered, and the first line that it
	// prints says what it is; anything else, an error, and it counts as metered. None: no
	// link is metered.
	Unmetered []string `yaml:"unmetered"`
	// Then is what happens to downloads: "wait" (default) for another link, "budget", or
	// "allow". With "wait" not even a question for newer roots goes over the link before
	// what peers brought is installed.
	Then string `yaml:"then"`
	// DailyBudget is how many bytes a day may come over metered links, with "budget";
	// they count for the other daily budget as well.
	DailyBudget int64 `yaml:"daily_budget"`
	// Again is the time between two questions. Default 1 min.
	Again time.Duration `yaml:"again"`
}

// The values of Metered.Then.
const (
	ThenWait   = "wait"
	ThenBudget = "budget"
	ThenAllow  = "allow"
)

const (
	// minRate is the lowest Rate: at less, a block of 2 MiB takes longer than fleetd waits
	// for a word about progress.
	minRate = 4096
	// maxRate is what an int holds on any machine.
	maxRate = 1 << 30
	// minBurst is what TLS brings at once.
	minBurst = 16 << 10
	// minBudget is the lowest budget: a block has as much on average.
	minBudget = 64 << 10
	// maxBudget is more than any link brings in a day.
	maxBudget = 1 << 50
	// defaultAgain is Metered.Again where it is 0.
	defaultAgain = time.Minute
)

// Validate names the key that is wrong.
func (c *Config) Validate() error {
	switch {
	case c.Rate != 0 && (c.Rate < minRate || c.Rate > maxRate):
		return fmt.Errorf("rate: must be from %d to %d bytes a second, or 0", minRate, maxRate)
	case c.Burst != 0 && c.Rate == 0:
		return errors.New("burst: means nothing without rate")
	case c.Burst != 0 && (c.Burst < minBurst || c.Burst > maxRate):
		return fmt.Errorf("burst: must be from %d to %d bytes, or 0", minBurst, maxRate)
	case c.DailyBudget != 0 && (c.DailyBudget < minBudget || c.DailyBudget > maxBudget):
		return fmt.Errorf("daily_budget: must be from %d to %d bytes, or 0", minBudget, int64(maxBudget))
	}
	if err := topics.CheckWindows("windows", c.Windows); err != nil {
		return err
	}
	return c.Metered.validate()
}

func (m *Metered) validate() error {
	switch {
	case len(m.Unmetered) == 0 && (m.Then != "" || m.DailyBudget != 0 || m.Again != 0):
		return errors.New("metered.unmetered: is missing, and the rest means nothing without it")
	case len(m.Unmetered) > 0 && !filepath.IsAbs(m.Unmetered[0]):
		return errors.New("metered.unmetered: must begin with an absolute path")
	case m.Then != "" && m.Then != ThenWait && m.Then != ThenBudget && m.Then != ThenAllow:
		return fmt.Errorf("metered.then: %q is neither %s nor %s nor %s", m.Then, ThenWait, ThenBudget, ThenAllow)
	case m.Then == ThenBudget && (m.DailyBudget < minBudget || m.DailyBudget > maxBudget):
		return fmt.Errorf("metered.daily_budget: must be from %d to %d bytes", minBudget, int64(maxBudget))
	case m.Then != ThenBudget && m.DailyBudget != 0:
		return fmt.Errorf("metered.daily_budget: is for metered.then: %s", ThenBudget)
	case m.Again < 0:
		return errors.New("metered.again: must be above 0")
	}
	return nil
}

// share is how much of the budgets is written down ahead; 0: there is no budget.
func (c *Config) share() int64 {
	least := c.DailyBudget
	if m := c.Metered.DailyBudget; m > 0 && (least == 0 || m < least) {
		least = m
	}
	if least == 0 {
		return 0
	}
	return min(max(least/64, 16<<10), 4<<20)
}

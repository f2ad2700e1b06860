package self

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"groundswell/agent/journal"
	"groundswell/topics"
)

// variable tells an agent how it was launched.
const variable = "GROUNDSWELL_LAUNCH"

// Launched is how an agent was launched.
type Launched struct {
	Dir      string   `json:"dir"`      // the launcher's argument
	Launcher string   `json:"launcher"` // its program
	Packaged string   `json:"packaged"` // the launcher's own version
	Args     []string `json:"args"`     // what the agent was given
	Slot     string   `json:"slot"`     // "" for the packaged agent
	Boot     string   `json:"boot"`     // differs from launch to launch
	Trial    bool     `json:"trial"`    // it is a child of the launcher, on trial
}

// TakeLaunched is how this process was launched, once: its children are not to think
// that it was them. false: not by the launcher.
func TakeLaunched() (l Launched, ok bool, err error) {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return Launched{}, false, nil
	}
	if err := os.Unsetenv(variable); err != nil {
		return Launched{}, false, err
	}
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return Launched{}, false, fmt.Errorf("%s: %w", variable, err)
	}
	return l, true, nil
}

// environment is the variable.
func (l Launched) environment() (string, error) {
	text, err := json.Marshal(l)
	return variable + "=" + string(text), err
}

func packagedFile(dir string) *journal.File { return journal.NewFile(filepath.Join(dir, "packaged")) }

// outdated reports whether a confirmed agent of version is behind the packaged one: that
// is newer, and another than the one beside which it was confirmed, as after an update of
// the whole system. Who was brought to an older one deliberately stays there.
func (l Launched) outdated(version string) bool {
	if order, err := topics.CompareVersions(l.Packaged, version); err != nil || order <= 0 {
		return false
	}
	beside, _, err := packagedFile(l.Dir).Load()
	return err == nil && string(beside) != l.Packaged
}

// watch is how long a trial may take. The agent before it writes it down, so that the
// launcher needs no configuration; in milliseconds.
type watch struct {
	// Alive is how long the agent may be silent, also at its start.
	Alive int64 `json:"alive_ms"`
	// Decided is after how long it must have been confirmed, or have given itself up.
	Decided int64 `json:"decided_ms"`
}

// The times where nobody said otherwise.
const (
	DefaultAlive   = time.Minute
	defaultDecided = time.Hour
)

func watchFile(dir string) string { return filepath.Join(dir, "watch.json") }

func (w watch) store(dir string) error {
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return journal.NewFile(watchFile(dir)).Save(data)
}

// loadWatch is what was stored; the defaults where there is nothing, or nothing that can
// be read.
func loadWatch(dir string) (alive, decided time.Duration) {
	alive, decided = DefaultAlive, defaultDecided
	var w watch
	data, _, err := journal.NewFile(watchFile(dir)).Load()
	if err != nil || json.Unmarshal(data, &w) != nil {
		return alive, decided
	}
	if w.Alive > 0 {
		alive = time.Duration(w.Alive) * time.Millisecond
	}
	if w.Decided > 0 {
		decided = time.Duration(w.Decided) * time.Millisecond
	}
	return alive, decided
}

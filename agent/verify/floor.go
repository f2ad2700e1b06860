package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"groundswell/agent/disk"
	"groundswell/agent/journal"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// floors are the security floors that were ever seen, in a file of their own: the list
// of releases from which they come can be lost, and whoever holds the online keys could
// show an older one then.
//
// A root that drops a release key takes them back, as it does with all that the key may
// have signed: a thief's floor above everything would keep a fleet from being updated
// for ever. A root that is older than the one that they were seen under does not; that
// is what the device was provisioned with, after it has lost what it had.
type floors struct {
	file *journal.File
	kept floorRecord
}

type floorRecord struct {
	Root int64    `json:"root"` // version of the newest image root under which they were seen
	Keys []string `json:"keys"` // its release keys
	// Floors by component, for this device.
	Floors map[string]string `json:"floors,omitempty"`
}

// openFloors reads what is kept. What is damaged is begun anew, from what is held of the
// releases.
func openFloors(on disk.FS, dir string, log *slog.Logger) *floors {
	f := &floors{file: journal.NewFileOn(on, filepath.Join(dir, "floors"))}
	raw, _, err := f.file.Load()
	if err == nil {
		err = json.Unmarshal(raw, &f.kept)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Error("security floors are damaged, and are what the list of releases says", "err", err)
	}
	for component, floor := range f.kept.Floors {
		if topics.CheckVersion(component, floor) != nil {
			delete(f.kept.Floors, component) // not ours
		}
	}
	return f
}

// raise takes in what a list of releases says, durably, under a root.
func (f *floors) raise(images trust.Images, facts trust.Facts, root trust.RootInfo) error {
	next := floorRecord{Root: f.kept.Root, Keys: f.kept.Keys, Floors: maps.Clone(f.kept.Floors)}
	if root.Version >= next.Root {
		var keys []string
		for _, k := range root.Roles[trust.RoleTargets].Keys {
			keys = append(keys, k.ID())
		}
		slices.Sort(keys)
		if slices.ContainsFunc(next.Keys, func(id string) bool { return !slices.Contains(keys, id) }) {
			next.Floors = nil
		}
		next.Root, next.Keys = root.Version, keys
	}
	if next.Floors == nil {
		next.Floors = map[string]string{}
	}
	for _, image := range images.All() {
		component := image.Release.Component
		floor, kept := images.Floor(component, facts), next.Floors[component]
		if floor == "" {
			continue
		}
		if kept != "" {
			if order, err := topics.CompareVersions(floor, kept); err != nil || order <= 0 {
				continue
			}
		}
		next.Floors[component] = floor
	}
	if next.Root == f.kept.Root && slices.Equal(next.Keys, f.kept.Keys) && maps.Equal(next.Floors, f.kept.Floors) {
		return nil
	}
	raw, err := json.Marshal(next)
	if err == nil {
		err = f.file.Save(raw)
	}
	if err != nil {
		return fmt.Errorf("keep security floors: %w", err)
	}
	f.kept = next
	return nil
}

// Floor is the lowest version of a component that may be installed on this device: the
// highest that images, a verified list, says, or that any list before it has said. Empty:
// any. It is written down first, and an error says that it could not be.
func (v *Verifier) Floor(images trust.Images, component string, facts trust.Facts) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	root, err := trust.CheckRoot(v.state.TrustDomain, trust.Image, v.state.ImageRoot)
	if err != nil {
		return "", err
	}
	if err := v.floors.raise(images, facts, root); err != nil {
		return "", err
	}
	return v.floors.kept.Floors[component], nil
}

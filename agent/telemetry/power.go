package telemetry

import (
	"path/filepath"
	"strconv"
)

// Power is what the machine runs on.
type Power struct {
	// Percent is the charge of the emptiest battery that runs the machine.
	Percent int
	// External: it is plugged in, or the battery charges.
	External bool
	// Battery: it has one, also one that does not say how much it holds; not one that the
	// kernel knows of and says is not present.
	Battery bool
}

// Power reads what the machine runs on, from the kernel's
// Documentation/ABI/testing/sysfs-class-power. Not ok: there is no battery, or none that
// says how much it holds.
func (m Machine) Power() (p Power, ok bool) {
	const class = "sys/class/power_supply"
	supplies, _ := filepath.Glob(filepath.Join(m.root(), class, "*")) // the pattern is right
	for _, path := range supplies {
		dir := filepath.Join(class, filepath.Base(path))
		read := func(name string) string {
			text, _ := m.read(filepath.Join(dir, name)) // what cannot be read is as if it were not there
			return text
		}
		switch read("type") {
		case "":
		case "Battery":
			if read("scope") == "Device" {
				continue // that of a mouse
			}
			if read("present") == "0" {
				continue // the place for one
			}
			p.Battery = true
			status := read("status")
			p.External = p.External || status == "Charging" || status == "Full"
			percent, err := strconv.Atoi(read("capacity"))
			if err != nil || percent < 0 || percent > 100 {
				continue
			}
			if !ok || percent < p.Percent {
				p.Percent = percent
			}
			ok = true
		default: // Mains, USB, Wireless
			p.External = p.External || read("online") == "1"
		}
	}
	return p, ok
}

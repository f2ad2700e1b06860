package telemetry

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPowerIsThatOfTheMachine(t *testing.T) {
	type supply map[string]string
	battery := func(capacity, status string) supply {
		return supply{"type": "Battery", "capacity": capacity, "status": status}
	}
	mouse := battery("3", "Discharging")
	mouse["scope"] = "Device"
	empty := battery("7", "Full")
	empty["present"] = "0"
	for name, c := range map[string]struct {
		supplies map[string]supply
		want     Power
		known    bool
	}{
		"none":                        {nil, Power{}, false},
		"only that of a mouse":        {map[string]supply{"hid": mouse}, Power{}, false},
		"a battery":                   {map[string]supply{"BAT0": battery("42", "Discharging")}, Power{Percent: 42, Battery: true}, true},
		"the emptier one counts":      {map[string]supply{"BAT0": battery("42", "Discharging"), "BAT1": battery("7", "Unknown")}, Power{Percent: 7, Battery: true}, true},
		"that of a mouse does not":    {map[string]supply{"BAT0": battery("42", "Discharging"), "hid": mouse}, Power{Percent: 42, Battery: true}, true},
		"charging":                    {map[string]supply{"BAT0": battery("9", "Charging")}, Power{Percent: 9, External: true, Battery: true}, true},
		"plugged in":                  {map[string]supply{"AC": {"type": "Mains", "online": "1"}, "BAT0": battery("9", "Not charging")}, Power{Percent: 9, External: true, Battery: true}, true},
		"pulled out":                  {map[string]supply{"AC": {"type": "USB", "online": "0"}, "BAT0": battery("9", "Discharging")}, Power{Percent: 9, Battery: true}, true},
		"a battery that says nothing": {map[string]supply{"BAT0": {"type": "Battery"}}, Power{Battery: true}, false},
		"a place for one":             {map[string]supply{"BAT0": {"type": "Battery", "present": "0"}}, Power{}, false},
		"that says what it held":      {map[string]supply{"BAT0": empty}, Power{}, false},
		"and one that is there":       {map[string]supply{"BAT0": empty, "BAT1": battery("42", "Discharging")}, Power{Percent: 42, Battery: true}, true},
		"one that says it is there":   {map[string]supply{"BAT0": {"type": "Battery", "present": "1"}}, Power{Battery: true}, false},
		"nonsense":                    {map[string]supply{"BAT0": battery("140", "Discharging")}, Power{Battery: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for supply, files := range c.supplies {
				dir := filepath.Join(root, "sys/class/power_supply", supply)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				for file, text := range files {
					if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got, known := (Machine{Root: root}).Power(); got != c.want || known != c.known {
				t.Errorf("got %+v, %v", got, known)
			}
		})
	}
}

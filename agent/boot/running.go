package boot

import (
	"fmt"
	"os"
	"strings"
)

// slotParameter is how the scripts have the kernel's command line say which slot it is.
const slotParameter = "groundswell.slot="

// RunningSlot is the slot that a kernel's command line names, in a file such as
// /proc/cmdline; the last one counts, as with the kernel's own parameters. Empty: none.
func RunningSlot(path string) (slot string, err error) {
	return Parameter(path, slotParameter)
}

// Parameter is RunningSlot for slots that the command line names otherwise, for instance
// after "rauc.slot=".
func Parameter(path, name string) (value string, err error) {
	line, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("which slot runs: %w", err)
	}
	for _, word := range strings.Fields(string(line)) {
		if v, ok := strings.CutPrefix(word, name); ok {
			value = v
		}
	}
	return value, nil
}

package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version names the build: the commit it was made from (with "+dirty" when the
// tree had changes), its date, and the Go version.
func Version() string {
	revision, date, dirty := "unknown", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				revision = s.Value[:min(12, len(s.Value))]
			case "vcs.time":
				date = " " + s.Value
			case "vcs.modified":
				if s.Value == "true" {
					dirty = "+dirty"
				}
			}
		}
	}
	return fmt.Sprintf("%s%s%s %s %s/%s", revision, dirty, date, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

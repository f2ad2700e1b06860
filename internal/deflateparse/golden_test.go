package deflateparse

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFormsAreAsTheyWereRecorded: deltas of version 3 are between forms, so they never change. A
// predictor that foretells anything else is that of another codec.
func TestFormsAreAsTheyWereRecorded(t *testing.T) {
	recorded, err := os.ReadFile("testdata/forms")
	if err != nil {
		t.Fatal(err)
	}
	var made strings.Builder
	names, streams := recordedStreams(t)
	for i, stream := range streams {
		for effort := range Efforts {
			fmt.Fprintf(&made, "%s %d %x\n", filepath.Base(names[i]), effort, sha256.Sum256(formOf(t, stream, effort)))
		}
	}
	if made.String() != string(recorded) {
		t.Errorf("recorded:\n%s\nmade:\n%s", recorded, made.String())
	}
}

package agenttest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// BreakJournal makes the journal in dir refuse every write, as on a disk that is
// full, until mend: a directory stands where it writes its new file.
func BreakJournal(t testing.TB, dir string) (mend func()) {
	t.Helper()
	path := filepath.Join(dir, "journal.new")
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	return func() {
		// At once: the journal writes there as soon as it is empty.
		away := filepath.Join(t.TempDir(), "away")
		if err := os.Rename(path, away); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}

package link

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"groundswell/agent/journal"
	"groundswell/topics"
)

func TestCohortsAreRememberedOverAStart(t *testing.T) {
	dir := t.TempDir()
	start := func() *Link {
		l := newLink(t)
		l.hint.file = journal.NewFile(filepath.Join(dir, "cohorts"))
		l.recall()
		return l
	}
	first := start()
	if _, cohorts := first.wanted(); cohorts != nil {
		t.Fatalf("a new device asks for %q", cohorts)
	}
	first.remember([]string{"lobby", "eu"})
	subs, cohorts := start().wanted()
	if !slices.Equal(cohorts, []string{"lobby", "eu"}) {
		t.Errorf("it asks for %q", cohorts)
	}
	// The assignment comes before what it explains.
	if len(subs) != 4 || subs[0].Filter != topics.DeviceAssignment("cam-1") || subs[2].Filter != lobby {
		t.Errorf("in the order %+v", subs)
	}
	for _, rubbish := range []string{`["../x"]`, `{}`} {
		if err := first.hint.file.Save([]byte(rubbish)); err != nil {
			t.Fatal(err)
		}
		if _, cohorts := start().wanted(); cohorts != nil {
			t.Errorf("%s: it asks for %q", rubbish, cohorts)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cohorts"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	start()
}

func TestManifestThatCameBeforeTheAssignmentCountsOnItsConnectionOnly(t *testing.T) {
	d := newDirector(t)
	l := d.link
	l.log = slog.New(slog.DiscardHandler)
	l.hint.cohorts = []string{"lobby"}
	raw := d.manifest("lobby", later())
	assignment := d.assignment(later(), "lobby")

	before := l.open(time.Now())
	l.take(lobby, raw)
	l.close(before)
	c := l.open(time.Now())
	l.take(ours, assignment)
	if l.World().View.Live {
		t.Fatal("complete by what came over another connection")
	}
	l.close(c)

	l.mu.Lock()
	l.assignment = nil
	l.mu.Unlock()
	l.open(time.Now())
	l.take(lobby, raw)
	if len(l.World().Manifests) != 0 {
		t.Fatal("taken without the assignment")
	}
	l.take(ours, assignment)
	if w := l.World(); !w.View.Live || len(w.Manifests) != 1 {
		t.Errorf("%+v", w)
	}
}

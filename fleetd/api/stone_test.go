package api_test

import (
	"slices"
	"strings"
	"testing"

	"groundswell/certs/trust"
	"groundswell/fleetd/api"
	"groundswell/internal/devstack/devtest"
)

func TestSteppingStonesAreSaid(t *testing.T) {
	t.Parallel()
	database, name := devtest.NamedDatabase(t)
	w := newWorldOn(t, database)
	w.report("cam-a", names(3)...) // of 1.0.0
	w.release("2.0.0")
	w.release("3.0.0", func(i *trust.ReleaseImage) {
		i.Release.Requires = []trust.Requirement{{Component: "modem", Versions: ">1"}, {Component: "system", Versions: ">=2.0"}}
	})
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","selector":"model=cam-a"}`})
	requires := func() string {
		t.Helper()
		var r api.Release
		w.must(200, &r, call{method: "GET", path: "/v1/releases/camera/3.0.0"})
		var all []string
		for _, q := range r.Requires {
			all = append(all, q.Component+" "+q.Versions)
		}
		return strings.Join(all, ", ")
	}
	if got := requires(); got != "modem >1, system >=2.0" {
		t.Errorf("requires %s", got)
	}
	var second, third api.Rollout
	w.must(201, &second, call{method: "POST", path: "/v1/rollouts", body: `{"release":{"name":"camera","version":"2.0.0"},"cohorts":["all"]}`})
	if len(second.Stones)+len(second.Warnings) != 0 {
		t.Errorf("the first: %+v", second)
	}
	w.must(200, &second, call{method: "POST", path: "/v1/rollouts/" + second.ID + "/start", header: match(second.Revision)})
	w.must(201, &third, call{method: "POST", path: "/v1/rollouts", body: `{"release":{"name":"camera","version":"3.0.0"},"cohorts":["all"]}`})
	want := []string{"3 devices run 1.0.0, and can take camera 3.0.0 only after camera 2.0.0, which rollout " + second.ID + " brings them"}
	if s := third.Stones; !slices.Equal(third.Warnings, want) || len(s) != 1 || s[0].From != "1.0.0" || s[0].Devices != 3 || s[0].Stays ||
		s[0].Rollout != second.ID || len(s[0].Path) != 1 || s[0].Path[0].Version != "2.0.0" {
		t.Errorf("the second: %+v", third)
	}
	// From a fleetd that did not note it, to one that does.
	if _, err := devtest.Postgres(t).Query(t.Context(), name, "UPDATE release SET requires = NULL"); err != nil {
		t.Fatal(err)
	}
	if got := requires(); got != "" {
		t.Fatalf("premise: requires %s", got)
	}
	if err := w.catalogue.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := requires(); got != "modem >1, system >=2.0" {
		t.Errorf("after a start it requires %s", got)
	}
}

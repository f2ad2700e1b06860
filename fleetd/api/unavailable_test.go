package api_test

import (
	"context"
	"testing"

	"groundswell/internal/devstack/devtest"
)

func TestADatabaseThatIsDownIsNotTheCallersFaultNorForever(t *testing.T) {
	pg := devtest.OwnPostgres(t)
	if err := pg.CreateDatabase(context.Background(), "fleet"); err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, pg.URL("fleet"))
	w.must(200, nil, call{method: "GET", path: "/v1/cohorts"})
	calls := []call{
		{method: "GET", path: "/v1/cohorts"},
		{method: "GET", path: "/v1/devices/cam-1"},
		{method: "POST", path: "/v1/cohorts", body: `{"name":"eu","selector":"region=eu"}`},
		{method: "PUT", path: "/v1/devices/cam-1", body: `{"region":"eu"}`},
		{method: "POST", path: "/v1/rollouts/r-a/pause", header: match(1)},
		{method: "PUT", path: "/v1/artifacts/" + w.image("1.0.0", "firmware").SHA256, body: "firmware"},
	}
	pg.Kill()
	for range 2 { // with connections in the pool that are dead, then without
		for _, c := range calls {
			w.refused(503, "", c)
			a := w.do(c)
			if a.header.Get("Retry-After") == "" {
				t.Errorf("%s %s: no Retry-After: %s", c.method, c.path, a.raw)
			}
		}
	}
	if err := pg.Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.must(201, nil, calls[2])
}

package api_test

import (
	"context"
	"fmt"
	"testing"

	"groundswell/certs/trust"
	"groundswell/fleetd/api"
	"groundswell/fleetd/store/storetest"
)

func TestARootIsFollowedStepByStep(t *testing.T) {
	w := newWorld(t)
	w.release("1.0.0")
	put := func(raw []byte) call {
		return call{method: "PUT", path: "/v1/repository/image/root", body: b64("root_b64", raw)}
	}
	spec := w.imageSpec()
	newSnapshot := key(t)
	spec.Snapshot = role(1, w.snapshotKey, newSnapshot)
	two, err := trust.RotateRoot(w.imageRoot, spec, w.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	three, err := trust.RotateRoot(two, w.imageSpec(), w.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newWorld(t)
	foreign, err := trust.RotateRoot(stranger.imageRoot, stranger.imageSpec(), stranger.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	w.refused(409, "/root_b64", put(three))
	w.refused(422, "/root_b64", put(foreign))
	w.refused(422, "/root_b64", put(w.directorRoot))
	pinned := func() int64 { return storetest.Must(w.store.ImagePin(t.Context())).Version }
	first := pinned()
	var root api.Root
	w.must(200, &root, put(two))
	w.must(200, &root, put(two)) // again
	second := pinned()
	if second <= first {
		t.Errorf("snapshot %d after %d", second, first)
	}
	if root.Version != 2 {
		t.Errorf("root: %+v", root)
	}
	w.refused(409, "/root_b64", put(w.imageRoot))
	w.must(200, &root, put(three))
	if err := w.catalogue.Ready(context.Background()); err != nil {
		t.Errorf("ready: %v", err)
	}
	// The snapshot was signed anew after each.
	if again := pinned(); again <= second {
		t.Errorf("snapshot %d after %d", again, second)
	}
	w.must(200, nil, call{method: "GET", path: fmt.Sprintf("/v1/repository/image/%d.snapshot.json", pinned())})
	w.must(200, nil, call{method: "GET", path: "/v1/repository/image/2.root.json"})
}

func TestManifestsAreSignedAnewWhenTheDirectorRootDropsTheirKey(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(2)...)
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","selector":"model=cam-a"}`})
	due := func() int {
		t.Helper()
		n, err := w.store.RefreshManifests(context.Background(), 10)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	spec := w.directorSpec()
	next := key(t)
	spec.Targets = role(1, w.directorKey, next)
	two, err := trust.RotateRoot(w.directorRoot, spec, w.directorRootKey)
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(raw []byte) {
		t.Helper()
		w.must(200, nil, call{method: "PUT", path: "/v1/repository/director/root", body: b64("root_b64", raw)})
	}
	rotate(two)
	if n := due(); n != 0 {
		t.Errorf("%d manifests are due after a key was added", n)
	}
	// Somebody who holds the other key signed; then that key is dropped.
	w.resign(next)
	three, err := trust.RotateRoot(two, w.directorSpec(), w.directorRootKey)
	if err != nil {
		t.Fatal(err)
	}
	rotate(three)
	if n := due(); n != 1 {
		t.Errorf("%d manifests are due after their key was dropped, want 1", n)
	}
	state, err := trust.NewState(domain, w.imageRoot, three)
	if err != nil {
		t.Fatal(err)
	}
	a := w.must(200, nil, call{method: "GET", path: "/v1/cohorts/all/manifest"})
	if _, _, err := state.Manifest(a.raw, "all", now()); err != nil {
		t.Errorf("the manifest by the new root: %v", err)
	}
}

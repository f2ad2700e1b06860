package api_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"groundswell/certs/token"
	"groundswell/certs/trust"
	"groundswell/fleetd/api"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/block"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

func TestArtifactsAreTakenOnlyWhole(t *testing.T) {
	w := newWorld(t)
	image := w.image("1.0.0", "firmware 1.0.0")
	path := "/v1/artifacts/" + image.SHA256
	w.refused(422, "sha256", call{method: "PUT", path: path, body: "firmware 1.0.1"})
	w.refused(422, "sha256", call{method: "PUT", path: path, body: ""})
	w.refused(413, "Content-Length", call{method: "PUT", path: path, body: make([]byte, 8<<20+1)})
	w.refused(422, "sha256", call{method: "PUT", path: "/v1/artifacts/abc", body: "x"})
	// Without Content-Length: in chunks.
	req, err := http.NewRequest("PUT", w.url+path, struct{ *strings.Reader }{strings.NewReader("firmware 1.0.0")})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	req.Header.Set("Authorization", w.bearer(token.Admin))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 411 {
		t.Errorf("in chunks: %s", resp.Status)
	}
	w.refused(404, "", call{method: "GET", path: path})
	w.must(201, nil, call{method: "PUT", path: path, body: "firmware 1.0.0"})
	w.must(200, nil, call{method: "PUT", path: path, body: "firmware 1.0.0"})
	var a api.Artifact
	w.must(200, &a, call{method: "GET", path: path, as: token.Viewer})
	if a.Length != image.Length || a.CreatedBy != "alice" {
		t.Errorf("artifact: %+v", a)
	}
}

// publish offers a list.
func publish(targets []byte) call {
	return call{method: "POST", path: "/v1/releases", body: b64("targets_b64", targets)}
}

func TestTheCatalogueTakesOnlyWhatTheReleaseRoleSigned(t *testing.T) {
	w := newWorld(t)
	const pointer = "/targets_b64"
	one := w.image("1.0.0", "firmware 1.0.0")
	good := w.sign(nil, w.releaseKeys, one)

	w.refused(422, pointer, publish(good)) // the bytes are not there yet
	w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + one.SHA256, body: "firmware 1.0.0"})
	w.refused(422, pointer, publish(w.sign(nil, w.releaseKeys[:1], one))) // under the threshold
	w.refused(422, pointer, publish([]byte(strings.Replace(string(good), "cam-a", "cam-z", 1))))
	w.refused(422, pointer, publish(nil))
	w.refused(422, pointer, publish([]byte("{}")))
	w.refused(422, pointer, call{method: "POST", path: "/v1/releases", body: `{"targets_b64":"not base64!"}`})
	stranger := newWorld(t)
	w.refused(422, pointer, publish(stranger.sign(nil, stranger.releaseKeys, one)))
	longer := one
	longer.Length++
	w.refused(422, pointer, publish(w.sign(nil, w.releaseKeys, longer)))
	if a := w.do(call{method: "GET", path: "/v1/repository/image/timestamp.json"}); a.status != 404 {
		t.Fatalf("a refused list left a timestamp: %d %s", a.status, a.raw)
	}

	var created struct{ Created []api.Release }
	w.must(201, &created, publish(good))
	w.must(201, &created, publish(good)) // the answer was lost
	if len(created.Created) != 1 || created.Created[0].Version != "1.0.0" || created.Created[0].SHA256 != one.SHA256 {
		t.Errorf("created: %+v", created)
	}

	two := w.image("1.1.0", "firmware 1.1.0")
	w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + two.SHA256, body: "firmware 1.1.0"})
	changed := one
	changed.Release.Notes = "other"
	for name, bad := range map[string][]byte{
		"same version, other list": w.sign(nil, w.releaseKeys, two),
		"vanished":                 w.sign(w.sign(nil, w.releaseKeys, two), w.releaseKeys),
		"changed":                  w.sign(w.sign(nil, w.releaseKeys, changed), w.releaseKeys, two),
	} {
		a := w.do(publish(bad))
		if a.status != 409 || !strings.Contains(string(a.raw), pointer) {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	w.must(201, &created, publish(w.sign(good, w.releaseKeys, two)))
	if len(created.Created) != 1 || created.Created[0].Version != "1.1.0" {
		t.Errorf("created: %+v", created)
	}
	w.refused(409, pointer, publish(good)) // the old list again

	// What a device would do with what is served.
	get := func(name string) []byte {
		t.Helper()
		return w.must(200, nil, call{method: "GET", path: "/v1/repository/image/" + name, as: token.Viewer}).raw
	}
	state, err := trust.NewState(domain, get("1.root.json"), w.directorRoot)
	if err != nil {
		t.Fatal(err)
	}
	state, pin, err := state.Timestamp(get("timestamp.json"), now())
	if err != nil {
		t.Fatal(err)
	}
	state, targets, err := state.Snapshot(get(fmt.Sprintf("%d.snapshot.json", pin.Version)), pin, now())
	if err != nil {
		t.Fatal(err)
	}
	_, images, err := state.Targets(get(fmt.Sprintf("%d.targets.json", targets.Version)), now())
	if err != nil || len(images.All()) != 2 {
		t.Errorf("images %v, err %v", images.All(), err)
	}
}

func TestAReleaseIsTakenOnlyWithTheBlockIndexOfItsArtifact(t *testing.T) {
	database, name := devtest.NamedDatabase(t)
	w := newWorldOn(t, database)
	const pointer = "/targets_b64"
	firmware := strings.Repeat("firmware 1.0.0 ", 30_000) // several blocks
	image := w.image("1.0.0", firmware)
	index := func(of string) []byte {
		x, err := block.Make(t.Context(), strings.NewReader(of), int64(len(of)))
		if err != nil || len(x.Blocks) < 2 {
			t.Fatalf("%d blocks, %v", len(x.Blocks), err)
		}
		return x.Bytes()
	}
	with := func(length int, raw []byte) []byte {
		digest := sha256.Sum256(raw)
		image.Release.Index = &topics.Document{Length: int64(length), SHA256: hex.EncodeToString(digest[:])}
		return w.sign(nil, w.releaseKeys, image)
	}
	put := func(raw []byte) {
		digest := sha256.Sum256(raw)
		w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + hex.EncodeToString(digest[:]), body: raw})
	}
	put([]byte(firmware))
	good := index(firmware)
	w.refused(422, pointer, publish(with(len(good), good))) // it is not there yet
	put(good)
	w.refused(422, pointer, publish(with(len(good)+1, good)))
	other := []byte(firmware)
	other[len(other)-1] = '!'
	for what, bad := range map[string][]byte{
		"of other bytes":     index(string(other)),
		"of another length":  index(firmware + firmware),
		"with something put": append(slices.Clone(good), 0),
		"none":               []byte("not an index"),
	} {
		put(bad)
		a := w.do(publish(with(len(bad), bad)))
		if a.status != 422 || !strings.Contains(string(a.raw), image.Path+": wrong block index") {
			t.Errorf("%s: %d %s", what, a.status, a.raw)
		}
	}
	if a := w.do(call{method: "GET", path: "/v1/releases/camera/1.0.0"}); a.status != 404 {
		t.Fatalf("a refused list left a release: %d %s", a.status, a.raw)
	}
	var created struct{ Created []api.Release }
	w.must(201, &created, publish(with(len(good), good)))
	var got api.Release
	w.must(200, &got, call{method: "GET", path: "/v1/releases/camera/1.0.0"})
	if len(created.Created) != 1 || got.Index == nil || *got.Index != api.Document(*image.Release.Index) {
		t.Errorf("created %+v, got %+v", created, got)
	}
	// As a replica of the version before has added it.
	if _, err := devtest.Postgres(t).Query(t.Context(), name, `UPDATE release SET index_length = NULL, index_sha256 = NULL`); err != nil {
		t.Fatal(err)
	}
	if err := w.catalogue.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := got
	again.Index = nil
	w.must(200, &again, call{method: "GET", path: "/v1/releases/camera/1.0.0"})
	if again.Index == nil || *again.Index != *got.Index {
		t.Errorf("not noted when it began: %+v", again)
	}
}

func TestTwoListsAtOnceNeverLoseARelease(t *testing.T) {
	w := newWorld(t)
	w.release("1.0.0")
	var lists [4][]byte
	for i := range lists {
		firmware := fmt.Sprintf("firmware 1.1.%d", i)
		image := w.image(fmt.Sprintf("1.1.%d", i), firmware)
		w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + image.SHA256, body: firmware})
		lists[i] = w.sign(w.targets, w.releaseKeys, image)
		for range i { // each of another version, so that only what is in them can collide
			lists[i] = w.sign(lists[i], w.releaseKeys)
		}
	}
	statuses := make([]int, len(lists))
	var wg sync.WaitGroup
	for i := range lists {
		wg.Go(func() { statuses[i] = w.do(publish(lists[i])).status })
	}
	wg.Wait()
	slices.Sort(statuses)
	if !slices.Equal(statuses, []int{201, 409, 409, 409}) {
		t.Errorf("statuses %v", statuses)
	}
}

// What was published after the backup is gone, but devices hold it: what is
// published next has to reach them nevertheless.
func TestAReleaseReachesDevicesAfterTheDatabaseWasRestored(t *testing.T) {
	url, name := devtest.NamedDatabase(t)
	w := newWorldOn(t, url)
	get := func(name string) []byte {
		t.Helper()
		return w.must(200, nil, call{method: "GET", path: "/v1/repository/image/" + name, as: token.Viewer}).raw
	}
	state := storetest.Must(trust.NewState(domain, w.imageRoot, w.directorRoot))
	// learn is what a device does with the pin of a manifest; known are the
	// releases that it knows then.
	learn := func() (pin topics.SnapshotPin, known int) {
		t.Helper()
		pin = storetest.Must(w.store.ImagePin(t.Context()))
		if state.NeedsSnapshot(pin) {
			var names trust.TargetsPin
			var err error
			if state, names, err = state.Snapshot(get(fmt.Sprintf("%d.snapshot.json", pin.Version)), pin, now()); err != nil {
				t.Fatal(err)
			}
			if state, _, err = state.Targets(get(fmt.Sprintf("%d.targets.json", names.Version)), now()); err != nil {
				t.Fatal(err)
			}
		}
		return pin, len(storetest.Must(state.Images(now())).All())
	}
	w.release("1.0.0")
	backup, _ := learn()
	w.release("1.1.0")
	lost, known := learn()
	if known != 2 {
		t.Fatalf("%d releases", known)
	}
	sql := fmt.Sprintf(`BEGIN;
		DELETE FROM repository_file WHERE name <> 'root.json' AND version > CASE name WHEN 'targets.json' THEN 1 ELSE %d END;
		DELETE FROM release WHERE version = '1.1.0';
		UPDATE image_pin SET version = %[1]d, length = %d, sha256 = '%s'; COMMIT`, backup.Version, backup.Length, backup.SHA256)
	if _, err := devtest.Postgres(t).Query(t.Context(), name, sql); err != nil {
		t.Fatal(err)
	}
	// A backup is older than this second.
	devtest.Eventually(t, 0, "the next second", devtest.True(func() bool { return now().Unix() > lost.Version }))
	if _, known := learn(); known != 2 {
		t.Fatalf("%d releases", known)
	}
	w.release("1.2.0") // the release keys' holders have kept their list
	if pin, known := learn(); known != 3 {
		t.Errorf("the device knows %d releases; snapshot %d was lost, the new one is %d", known, lost.Version, pin.Version)
	}
}

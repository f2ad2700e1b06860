package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"groundswell/certs/trust"
	"groundswell/fleetd/api"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/topics"
)

// indexed publishes a release of some firmware, with the block index that it returns.
func (w *world) indexed(version, firmware string) []byte {
	w.t.Helper()
	index := storetest.Must(block.Make(w.t.Context(), strings.NewReader(firmware), int64(len(firmware)))).Bytes()
	image := w.image(version, firmware)
	sum := sha256.Sum256(index)
	image.Release.Index = &topics.Document{Length: int64(len(index)), SHA256: hex.EncodeToString(sum[:])}
	w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + image.SHA256, body: firmware})
	w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + image.Release.Index.SHA256, body: index})
	w.targets = w.sign(w.targets, w.releaseKeys, image)
	w.must(201, nil, call{method: "POST", path: "/v1/releases", body: b64("targets_b64", w.targets)})
	return index
}

// TestAPreviewCountsDeltasOfBlockIndexes: of those who run what has an index.
func TestAPreviewCountsDeltasOfBlockIndexes(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(3)...)                // which run 1.0.0
	raw := make([]byte, 6<<20)                    // of less, the index is too short for a delta
	_, _ = rand.NewChaCha8([32]byte{1}).Read(raw) // never fails
	old := string(raw)
	firmware := old[:500_000] + "something new" + old[500_000:]
	oldIndex, index := w.indexed("1.0.0", old), w.indexed("1.1.0", firmware)
	var between bytes.Buffer
	if err := delta.Encode(t.Context(), &between, oldIndex, index, delta.Options{}); err != nil {
		t.Fatal(err)
	}
	w.must(201, nil, call{method: "PUT", path: "/v1/devices/never-seen", body: `{}`, header: []string{"If-None-Match", "*"}})
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","devices":["cam-1","cam-2","cam-3","never-seen"]}`})
	var r api.Rollout
	w.must(201, &r, call{method: "POST", path: "/v1/rollouts", body: `{"release":{"name":"camera","version":"1.1.0"},"cohorts":["all"],"policy":{"waves":[{"percent":100}]}}`})
	var p api.Preview
	w.must(200, &p, call{method: "GET", path: "/v1/rollouts/" + r.ID + "/preview"})
	known, unknown := int64(len(firmware)+between.Len()), int64(len(firmware)+len(index))
	if len(p.Versions) != 2 || p.Versions[0].Each != known || p.Versions[1].Each != unknown || p.Bytes != 3*known+unknown || between.Len() >= len(index)*3/4 {
		t.Errorf("an index of %d bytes, a delta of %d: got %+v", len(index), between.Len(), p)
	}
}

func TestARolloutIsPreviewedBeforeItStarts(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(3)...) // which run 1.0.0
	w.release("1.0.0")
	const firmware = "firmware 1.1.0"
	index := storetest.Must(block.Make(t.Context(), strings.NewReader(firmware), int64(len(firmware)))).Bytes()
	digest := sha256.Sum256(index)
	w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + hex.EncodeToString(digest[:]), body: index})
	w.release("1.1.0", func(i *trust.ReleaseImage) {
		i.Release.Index = &topics.Document{Length: int64(len(index)), SHA256: hex.EncodeToString(digest[:])}
	})
	w.must(201, nil, call{method: "PUT", path: "/v1/devices/never-seen", body: `{}`, header: []string{"If-None-Match", "*"}})
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","devices":["cam-1","cam-2","cam-3","never-seen"]}`})
	var r api.Rollout
	w.must(201, &r, call{method: "POST", path: "/v1/rollouts",
		body: `{"release":{"name":"camera","version":"1.1.0"},"cohorts":["all"],"policy":{"waves":[{"percent":100,"spread":"2h"}]}}`})
	path := "/v1/rollouts/" + r.ID + "/preview"
	var p api.Preview
	w.must(200, &p, call{method: "GET", path: path, as: "viewer"})
	each := int64(len(firmware) + len(index))
	if p.Devices != 4 || p.Unknown != 1 || p.Bytes != 4*each || p.Cost != nil || len(p.Versions) != 2 || p.Versions[0].From != "1.0.0" ||
		p.Versions[0].Devices != 3 || p.Versions[0].Delta != "none" || p.Versions[0].Way != "full" || p.Versions[0].Each != each || p.Versions[1].From != "" {
		t.Errorf("got %+v", p)
	}
	if p.StepHours != 1 || len(p.Steps) != 2 || p.Steps[1] != (api.PreviewStep{Hour: 1, Bytes: 2 * each}) || p.Peak != 2*each || p.EndsAfterS != 7200 {
		t.Errorf("steps %+v", p)
	}
	w.must(200, &p, call{method: "GET", path: path + "?price_per_gb=0.5"})
	if p.Cost == nil || p.Cost.PricePerGB != 0.5 || p.Cost.Amount != float64(4*each)/1e9*0.5 {
		t.Errorf("cost %+v", p.Cost)
	}
	for _, bad := range []string{"much", "-1", "NaN", "1e9"} {
		w.refused(422, "price_per_gb", call{method: "GET", path: path + "?price_per_gb=" + bad})
	}
	if a := w.do(call{method: "GET", path: "/v1/rollouts/r-none/preview"}); a.status != 404 {
		t.Errorf("of none: %d %s", a.status, a.raw)
	}
	// What a rollout's own view says about deltas, and where the bytes came from.
	w.must(200, &r, call{method: "POST", path: "/v1/rollouts/" + r.ID + "/start", header: []string{"If-Match", `"1"`}})
	a := w.must(200, &r, call{method: "GET", path: "/v1/rollouts/" + r.ID})
	if len(r.Deltas) != 1 || r.Deltas[0] != (api.DeltaSource{From: "1.0.0", Devices: 3, State: "none"}) || r.Transfer != nil || bytes.Contains(a.raw, []byte("null")) {
		t.Errorf("got %s", a.raw)
	}
}

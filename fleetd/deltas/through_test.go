package deltas_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/fleetd/artifact"
	"groundswell/fleetd/deltas"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/expand"
	"groundswell/topics"
)

// compressed is a firmware of which a version is, by the program gzip.
func compressed(t *testing.T, version byte) []byte {
	t.Helper()
	content := noise(1, 400_000)
	for i := range content {
		if content[i] &= 0x1f; i%(5000+97*int(version)) == 7 {
			content[i] = 'a' + version
		}
	}
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gzip", "-nc9", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dense is a configuration by which the plain delta between two compressed ones saves too
// little: in some places they are the same, and the packed blocks are shorter.
func (f *fixture) dense() deltas.Config {
	cfg := f.config()
	cfg.Packed = func(context.Context, string) (int64, bool) { return 200_000, true }
	return cfg
}

// index is the delta index that devices are told of.
func (f *fixture) index() topics.DeltaIndex {
	f.T.Helper()
	signed, _, err := f.CohortManifest(f.T.Context(), "all")
	if err != nil {
		f.T.Fatal(err)
	}
	m, err := topics.DecodeManifest(signed)
	if err != nil || m.Entries[0].Deltas == nil {
		f.T.Fatalf("the manifest: %v, %v", m.Entries, err)
	}
	return storetest.Must(topics.DecodeDeltaIndex(f.read(*m.Entries[0].Deltas)))
}

func (f *fixture) read(d topics.Document) []byte {
	f.T.Helper()
	b, err := f.blobs.Open(f.T.Context(), d.SHA256)
	if err != nil {
		f.T.Fatal(err)
	}
	defer b.Close()
	raw := storetest.Must(io.ReadAll(b))
	if digest := sha256.Sum256(raw); int64(len(raw)) != d.Length || hex.EncodeToString(digest[:]) != d.SHA256 {
		f.T.Fatalf("%+v has other bytes", d)
	}
	return raw
}

// TestOnlyWhatLooksThroughIsListed where the plain delta saves nothing.
func TestOnlyWhatLooksThroughIsListed(t *testing.T) {
	f := newFixture(t)
	old, target := compressed(t, 1), compressed(t, 2)
	from, to := f.release("1.0.0", old), f.release("1.1.0", target)
	r := f.rollout("1.1.0")
	source := f.work(f.dense(), r, "a delta that devices know of", func(s fleet.DeltaSource) bool { return s.Listed })
	x := f.index()
	if x.Artifact != to.SHA256 || len(x.Deltas) != 0 || len(x.Expanded) != 1 || x.Expanded[0].From != from.SHA256 || x.Expanded[0].Document != source.Delta || source.Plain < 10*source.Delta.Length {
		t.Fatalf("the delta index: %+v, the delta %+v", x, source)
	}
	raw := f.read(x.Expanded[0].Document)
	head := storetest.Must(expand.ReadHead(raw))
	decoder := storetest.Must(expand.NewDecoder(head, bytes.NewReader(old), nil))
	var made bytes.Buffer
	for i := range head.Units {
		if err := decoder.Unit(i, bytes.NewReader(raw), &made); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(made.Bytes(), target) || len(raw) > 5000 {
		t.Errorf("a delta of %d bytes makes something else than the artifact", len(raw))
	}
	var plain string
	if text := f.Exec(`SELECT state, plain_useless, sha256 FROM delta`); !strings.HasPrefix(text, "ready|t|") {
		t.Fatalf("noted: %s", text)
	} else {
		plain = strings.TrimSpace(strings.TrimPrefix(text, "ready|t|"))
	}
	if _, err := f.blobs.Size(t.Context(), plain); !errors.Is(err, artifact.ErrNoArtifact) {
		t.Errorf("the plain one is stored: %v", err)
	}
}

// both has a release whose plain delta from the one before is worth it, and one that looks
// through compression as well; they begin with an order for who makes that.
func (f *fixture) both(order string, policy fleet.PolicySpec) fleet.Rollout {
	f.T.Helper()
	same := append([]byte(order), noise(7, 400_000)...)
	f.release("1.0.0", append(bytes.Clone(same), compressed(f.T, 1)...))
	f.release("1.1.0", append(bytes.Clone(same), compressed(f.T, 2)...))
	return f.rolloutBy("1.1.0", policy)
}

// expanded is how the second delta stands: its state, attempts and error.
func (f *fixture) expanded() string {
	return strings.TrimSpace(f.Exec(`SELECT expanded_state, expanded_attempts, expanded_error FROM delta`))
}

// TestBothAreListed where the plain one is worth it too.
func TestBothAreListed(t *testing.T) {
	f := newFixture(t)
	source := f.work(f.config(), f.both("", fleet.PolicySpec{}), "both deltas", func(s fleet.DeltaSource) bool {
		if !s.Listed || strings.TrimSpace(f.Exec(`SELECT expanded_listed FROM delta`)) != "t" {
			return false
		}
		x := f.index() // s may have been read before it was listed
		return len(x.Expanded) == 1 && s.Delta == x.Expanded[0].Document
	})
	x := f.index()
	if len(x.Deltas) != 1 || len(x.Expanded) != 1 || x.Expanded[0].Length > x.Deltas[0].Length/10 || source.Delta != x.Expanded[0].Document || source.Plain != x.Deltas[0].Length {
		t.Errorf("the delta index: %+v, the delta %+v", x, source)
	}
	f.read(x.Deltas[0].Document)
	f.read(x.Expanded[0].Document)
	if text := f.expanded(); text != "done|1|" {
		t.Errorf("noted: %s", text)
	}
}

// TestThePlainDeltaDoesNotWaitForTheOther: devices know of it while the other is made, or
// hangs, or is given up.
func TestThePlainDeltaDoesNotWaitForTheOther(t *testing.T) {
	f := newFixture(t)
	r := f.both("through: hang", fleet.PolicySpec{})
	plainOnly := func(s fleet.DeltaSource) {
		t.Helper()
		if x := f.index(); len(x.Deltas) != 1 || len(x.Expanded) != 0 || s.Delta != x.Deltas[0].Document || s.Plain != 0 || !s.Listed || s.State != fleet.DeltaReady {
			t.Errorf("the delta index: %+v, the delta %+v", x, s)
		}
		if _, e, err := f.db.Evidence(t.Context(), r.ID); err != nil || e.Deltas != nil {
			t.Errorf("the rollout waits: %v, %v", e.Deltas, err)
		}
	}
	plainOnly(f.work(f.config(), r, "the plain delta, while the other hangs", func(s fleet.DeltaSource) bool {
		return s.Listed && f.expanded() == "running|1|"
	}))
	if text := f.expanded(); text != "pending|0|" { // the worker was stopped
		t.Errorf("left behind: %s", text)
	}
	cfg := f.config()
	cfg.Timeout = time.Second
	plainOnly(f.work(cfg, r, "the other to be given up", func(fleet.DeltaSource) bool {
		f.Exec(`UPDATE delta SET expanded_until = NULL WHERE expanded_state = 'pending'`) // not in a minute
		return strings.HasPrefix(f.expanded(), "failed|3|it took longer than it may")
	}))
}

// TestWhatFailsInLookingThroughCostsOnlyThat, and is tried three times.
func TestWhatFailsInLookingThroughCostsOnlyThat(t *testing.T) {
	for order, says := range map[string]string{"through: crash": "told to crash", "through: lie": "makes something else"} {
		f := newFixture(t)
		source := f.work(f.config(), f.both(order, fleet.PolicySpec{}), "it to be given up", func(fleet.DeltaSource) bool {
			f.Exec(`UPDATE delta SET expanded_until = NULL WHERE expanded_state = 'pending'`)
			return strings.HasPrefix(f.expanded(), "failed|3|")
		})
		if x := f.index(); len(x.Deltas) != 1 || len(x.Expanded) != 0 || source.Delta != x.Deltas[0].Document || !source.Listed {
			t.Errorf("%s: %+v, %+v", order, x, source)
		}
		if text := strings.TrimSpace(f.Exec(`SELECT attempts, error FROM delta`)); text != "1|" || !strings.Contains(f.expanded(), says) {
			t.Errorf("%s: noted: %s, %s", order, text, f.expanded())
		}
	}
}

// TestWhatLooksThroughMayComeLaterThanAPlainDeltaThatSavesNothing: once whoever makes it
// does not crash any more.
func TestWhatLooksThroughMayComeLaterThanAPlainDeltaThatSavesNothing(t *testing.T) {
	f := newFixture(t)
	f.release("1.0.0", compressed(t, 1))
	f.release("1.1.0", compressed(t, 2))
	r := f.rollout("1.1.0")
	cfg := f.dense()
	cfg.Encoder = deltas.Child{Env: []string{"THROUGH=crash"}}
	f.work(cfg, r, "a verdict about the plain one", func(s fleet.DeltaSource) bool { return s.State == fleet.DeltaUseless })
	source := f.work(f.dense(), r, "the other", func(s fleet.DeltaSource) bool {
		f.Exec(`UPDATE delta SET expanded_until = NULL WHERE expanded_state = 'pending'`)
		return s.Listed
	})
	if x := f.index(); len(x.Deltas) != 0 || len(x.Expanded) != 1 || source.Delta != x.Expanded[0].Document || source.State != fleet.DeltaReady {
		t.Errorf("the delta index: %+v, the delta %+v", x, source)
	}
}

// TestAPolicyMayBeAgainstLookingThrough: none is made while the newest rollout that says
// anything says so, whether the plain delta is worth it or not.
func TestAPolicyMayBeAgainstLookingThrough(t *testing.T) {
	plain := fleet.PolicySpec{DeltaCoder: "plain-zstd"}
	for name, c := range map[string]struct {
		state  fleet.DeltaState
		listed int
		begin  func(f *fixture) fleet.Rollout
	}{
		"worth it": {fleet.DeltaReady, 1, func(f *fixture) fleet.Rollout { return f.both("", plain) }},
		"not worth it": {fleet.DeltaUseless, 0, func(f *fixture) fleet.Rollout {
			f.release("1.0.0", compressed(t, 1))
			f.release("1.1.0", compressed(t, 2))
			return f.rolloutBy("1.1.0", plain)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			r := c.begin(f)
			cfg := f.config()
			if c.state == fleet.DeltaUseless {
				cfg = f.dense()
			}
			f.work(cfg, r, "the plain delta alone", func(s fleet.DeltaSource) bool {
				return s.State == c.state && s.Listed == (c.listed > 0) && s.Plain == 0
			})
			if job, ok, err := f.db.ClaimDelta(t.Context(), "two", time.Minute); err != nil || ok {
				t.Fatalf("to be made: %+v, %v", job, err)
			}
			if text := f.expanded(); text != "pending|0|" {
				t.Fatalf("noted: %s", text)
			}
			storetest.Must(f.db.CancelRollout(t.Context(), storetest.Alice, r.ID, storetest.Must(f.db.Rollout(t.Context(), r.ID)).Revision, ""))
			r = f.rolloutBy("1.1.0", fleet.PolicySpec{DeltaCoder: "zstd"})
			source := f.work(cfg, r, "the other, by a rollout that lets it be made", func(s fleet.DeltaSource) bool { return s.Listed && s.Plain > 0 })
			if x := f.index(); len(x.Deltas) != c.listed || len(x.Expanded) != 1 || source.Delta != x.Expanded[0].Document {
				t.Errorf("the delta index: %+v, the delta %+v", x, source)
			}
		})
	}
}

package trust_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// pinUntil is a first snapshot that expires then.
func pinUntil(t *testing.T, w *world, expires time.Time) ([]byte, topics.SnapshotPin) {
	t.Helper()
	raw, pin, err := trust.MakeSnapshot(w.targets, 1, expires, w.snapshotKey)
	if err != nil {
		t.Fatal(err)
	}
	return raw, pin
}

// pinOf is a snapshot of targets.
func pinOf(t *testing.T, w *world, targets []byte, version int64) ([]byte, topics.SnapshotPin) {
	t.Helper()
	raw, pin, err := trust.MakeSnapshot(targets, version, now.Add(30*day), w.snapshotKey)
	if err != nil {
		t.Fatal(err)
	}
	return raw, pin
}

func TestSnapshotRefusals(t *testing.T) {
	w := newWorld(t)
	w.publish(5)
	before, _ := w.synced()
	forged := func(change func(object), keys ...*trust.Key) ([]byte, topics.SnapshotPin) {
		raw := forge[trust.SnapshotRole](t, w.snapshot, both(set(6, "version"), change), keys...)
		return raw, topics.SnapshotPin{Version: 6, Length: int64(len(raw)), SHA256: digest(raw)}
	}
	older, olderPin := pinOf(t, w, w.targets, 4)

	for _, test := range []struct {
		name string
		make func() ([]byte, topics.SnapshotPin)
		at   time.Time
		want error
	}{
		{"other bytes than pinned", func() ([]byte, topics.SnapshotPin) {
			raw, pin := forged(nothing, w.snapshotKey)
			return append(raw, ' '), pin
		}, now, trust.ErrPin},
		{"another digest than pinned", func() ([]byte, topics.SnapshotPin) {
			raw, pin := forged(nothing, w.snapshotKey)
			pin.SHA256 = strings.Repeat("0", 64)
			return raw, pin
		}, now, trust.ErrPin},
		{"another version than pinned", func() ([]byte, topics.SnapshotPin) {
			raw, pin := forged(nothing, w.snapshotKey)
			pin.Version = 7
			return raw, pin
		}, now, trust.ErrPin},
		{"signed by a stranger", func() ([]byte, topics.SnapshotPin) { return forged(nothing, newKey(t)) }, now, trust.ErrSignature},
		{"signed by the timestamp key", func() ([]byte, topics.SnapshotPin) { return forged(nothing, w.timestampKey) }, now, trust.ErrSignature},
		{"signed by a director key", func() ([]byte, topics.SnapshotPin) { return forged(nothing, w.directorKeys[0]) }, now, trust.ErrSignature},
		{"older", func() ([]byte, topics.SnapshotPin) { return older, olderPin }, now, trust.ErrVersionRollback},
		{"expired", func() ([]byte, topics.SnapshotPin) { return forged(nothing, w.snapshotKey) }, now.Add(30 * day), trust.ErrExpired},
		{"the image root expired", func() ([]byte, topics.SnapshotPin) {
			return forged(set(rfc3339(now.Add(999*day)), "expires"), w.snapshotKey)
		}, now.Add(365 * day), trust.ErrExpired},
		{"names older targets", func() ([]byte, topics.SnapshotPin) {
			return forged(set(object{"targets.json": object{"version": 0}}, "meta"), w.snapshotKey)
		}, now, trust.ErrMalformed},
		{"names other targets of the same version", func() ([]byte, topics.SnapshotPin) {
			return forged(set(1, "meta", "targets.json", "length"), w.snapshotKey)
		}, now, trust.ErrVersionRollback},
		{"names no targets", func() ([]byte, topics.SnapshotPin) { return forged(set(object{}, "meta"), w.snapshotKey) }, now, trust.ErrMalformed},
		{"names targets without digest", func() ([]byte, topics.SnapshotPin) {
			return forged(set(nil, "meta", "targets.json", "hashes"), w.snapshotKey)
		}, now, trust.ErrMalformed},
		{"names endless targets", func() ([]byte, topics.SnapshotPin) {
			return forged(set(1<<40, "meta", "targets.json", "length"), w.snapshotKey)
		}, now, trust.ErrMalformed},
		{"too large", func() ([]byte, topics.SnapshotPin) {
			raw, pin := forged(nothing, w.snapshotKey)
			return append(raw, bytes.Repeat([]byte(" "), trust.MaxSnapshot)...), pin
		}, now, trust.ErrTooLarge},
		{"targets", func() ([]byte, topics.SnapshotPin) {
			return w.targets, topics.SnapshotPin{Version: 1, Length: int64(len(w.targets)), SHA256: digest(w.targets)}
		}, now, trust.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			raw, pin := test.make()
			after, _, err := before.Snapshot(raw, pin, test.at)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			sameState(t, after, before)
		})
	}
	// The same one again, and a newer one, are fine.
	if after, _, err := before.Snapshot(w.snapshot, w.pin, now); err != nil {
		t.Error(err)
	} else {
		sameState(t, after, before)
	}
	raw, pin := forged(nothing, w.snapshotKey)
	if _, _, err := before.Snapshot(raw, pin, now); err != nil {
		t.Error(err)
	}
}

func TestTargetsRefusals(t *testing.T) {
	w := newWorld(t)
	before, _ := w.synced()
	first := w.image("1.1.0", "").Path
	second := w.image("1.2.0", "")
	newer := w.signTargets(w.targets, second)
	release := w.releaseKeys[:2]
	forged := func(change func(object)) []byte { return forge[trust.TargetsRole](t, newer, change, release...) }

	for _, test := range []struct {
		name string
		raw  []byte
		at   time.Time
		want error
	}{
		{"one signature of two", forge[trust.TargetsRole](t, newer, nothing, release[0]), now, trust.ErrThreshold},
		{"one signature and a stranger's", forge[trust.TargetsRole](t, newer, nothing, release[0], newKey(t)), now, trust.ErrThreshold},
		{"signed by strangers", forge[trust.TargetsRole](t, newer, nothing, newKey(t), newKey(t)), now, trust.ErrSignature},
		{"signed by all of fleetd's keys", forge[trust.TargetsRole](t, newer, nothing, w.directorKeys[0], w.directorKeys[1], w.snapshotKey, w.timestampKey), now, trust.ErrSignature},
		{"changed after signing", edit(t, newer, set(1, "targets", first, "length")), now, trust.ErrSignature},
		{"expired", newer, now.Add(90 * day), trust.ErrExpired},
		{"a release vanished", forged(set(nil, "targets", first)), now, trust.ErrVanished},
		{"a release has another digest", forged(set(strings.Repeat("0", 64), "targets", first, "hashes", "sha256")), now, trust.ErrVanished},
		{"a release has another length", forged(set(1, "targets", first, "length")), now, trust.ErrVanished},
		{"a release is for other models", forged(set([]string{"cam-z"}, "targets", first, "custom", "models")), now, trust.ErrVanished},
		{"a release lost its floor", forged(set("1.0.0", "targets", first, "custom", "security_floor")), now, trust.ErrVanished},
		{"a release at another's path", forged(set("1.3.0", "targets", second.Path, "custom", "version")), now, trust.ErrMalformed},
		{"a release without models", forged(set([]string{}, "targets", second.Path, "custom", "models")), now, trust.ErrMalformed},
		{"a release without custom", forged(set(nil, "targets", second.Path, "custom")), now, trust.ErrMalformed},
		{"a release whose floor is above itself", forged(set("1.2.1", "targets", second.Path, "custom", "security_floor")), now, trust.ErrMalformed},
		{"a release with a wrong type", forged(set("cam-x", "targets", second.Path, "custom", "models")), now, trust.ErrMalformed},
		{"a target without digest", edit(t, newer, set(object{}, "targets", second.Path, "hashes")), now, trust.ErrMalformed},
		{"a target by SHA-512 only", forged(set(object{"sha512": strings.Repeat("0", 128)}, "targets", second.Path, "hashes")), now, trust.ErrMalformed},
		{"a path that climbs", forged(func(o object) {
			targets := o["targets"].(object)
			targets["../etc/passwd"] = targets[second.Path]
		}), now, trust.ErrMalformed},
		{"delegations", forged(set(object{"keys": object{}, "roles": []any{}}, "delegations")), now, trust.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			// A thief of the snapshot key pins whatever it is.
			snapshot, pin := forgeSnapshot(t, w, test.raw, 2)
			s, _, err := before.Snapshot(snapshot, pin, now)
			if err != nil {
				t.Fatal(err)
			}
			after, images, err := s.Targets(test.raw, test.at)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if len(images.All()) != 0 {
				t.Errorf("got releases with an error: %v", images.All())
			}
			sameState(t, after, s)
			if _, err := after.Images(now); err == nil {
				t.Error("the old list counts as the one that the snapshot names")
			}
		})
	}

	if _, _, err := before.Targets(newer, now); !errors.Is(err, trust.ErrPin) {
		t.Errorf("targets that no snapshot names: got %v, want %v", err, trust.ErrPin)
	}
	if _, _, err := w.state().Targets(w.targets, now); !errors.Is(err, trust.ErrPin) {
		t.Errorf("targets before any snapshot: got %v, want %v", err, trust.ErrPin)
	}
	if _, _, err := before.Targets(bytes.Repeat([]byte(" "), trust.MaxTargets+1), now); !errors.Is(err, trust.ErrTooLarge) {
		t.Errorf("endless targets: got %v, want %v", err, trust.ErrTooLarge)
	}

	// The honest one goes through, and once more.
	snapshot, pin := pinOf(t, w, newer, 2)
	s, _, err := before.Snapshot(snapshot, pin, now)
	if err != nil {
		t.Fatal(err)
	}
	s, images, err := s.Targets(newer, now)
	if err != nil || len(images.All()) != 2 || images.Version() != 2 {
		t.Fatalf("got %d releases of version %d, %v", len(images.All()), images.Version(), err)
	}
	if again, _, err := s.Targets(newer, now); err != nil {
		t.Error(err)
	} else {
		sameState(t, again, s)
	}
	if _, err := s.Images(now.Add(90 * day)); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("held but expired: got %v, want %v", err, trust.ErrExpired)
	}
}

// forgeSnapshot names raw as targets of version 2, whatever raw says.
func forgeSnapshot(t *testing.T, w *world, raw []byte, version int64) ([]byte, topics.SnapshotPin) {
	t.Helper()
	snapshot := forge[trust.SnapshotRole](t, w.snapshot, both(
		set(version, "version"),
		set(object{"version": 2, "length": len(raw), "hashes": object{"sha256": digest(raw)}}, "meta", "targets.json"),
	), w.snapshotKey)
	return snapshot, topics.SnapshotPin{Version: version, Length: int64(len(snapshot)), SHA256: digest(snapshot)}
}

func TestTargetsOfAnotherVersionThanTheSnapshotNames(t *testing.T) {
	w := newWorld(t)
	snapshot, pin := forgeSnapshot(t, w, w.targets, 2) // they are version 1
	s, _, err := w.state().Snapshot(snapshot, pin, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Targets(w.targets, now); !errors.Is(err, trust.ErrPin) {
		t.Errorf("got %v, want %v", err, trust.ErrPin)
	}
}

func TestOlderPinNeedsNothing(t *testing.T) {
	w := newWorld(t)
	old := w.pin
	w.publish(2)
	s, _ := w.synced()
	if s.NeedsSnapshot(old) || s.NeedsSnapshot(w.pin) {
		t.Error("a pin that is not newer asks for a fetch")
	}
	newer := w.pin
	newer.Version++
	if !s.NeedsSnapshot(newer) {
		t.Error("a newer pin asks for nothing")
	}
}

// TestASnapshotAloneIsNoDocument: whoever took it would wait for its list in vain.
func TestASnapshotAloneIsNoDocument(t *testing.T) {
	w := newWorld(t)
	s, _ := w.synced()
	if got := s.Documents(); len(got) != 2 || !bytes.Equal(got[digest(w.snapshot)], w.snapshot) || !bytes.Equal(got[digest(w.targets)], w.targets) {
		t.Errorf("of both: %d documents", len(got))
	}
	raw, pin := pinOf(t, w, w.signTargets(w.targets), 2)
	s, _, err := s.Snapshot(raw, pin, now)
	if got := s.Documents(); err != nil || len(got) != 0 {
		t.Errorf("of a snapshot alone: %d documents, %v", len(got), err)
	}
}

func TestTimestampNamesTheSnapshot(t *testing.T) {
	w := newWorld(t)
	w.publish(5)
	before := w.state()
	before, pin, err := before.Timestamp(w.timestampBytes, now)
	if err != nil || pin != w.pin {
		t.Fatalf("got %+v, %v, want %+v", pin, err, w.pin)
	}
	if before, _, err = before.Snapshot(w.snapshot, pin, now); err != nil {
		t.Fatal(err)
	}
	older := must[[]byte](t)(trust.MakeTimestamp(w.snapshot, 4, now.Add(day), w.timestampKey))
	oldSnapshot, _ := pinOf(t, w, w.targets, 4)
	for _, test := range []struct {
		name string
		raw  []byte
		at   time.Time
		want error
	}{
		{"older", older, now, trust.ErrVersionRollback},
		{"names an older snapshot", must[[]byte](t)(trust.MakeTimestamp(oldSnapshot, 6, now.Add(day), w.timestampKey)), now, trust.ErrVersionRollback},
		{"expired", w.timestampBytes, now.Add(7 * day), trust.ErrExpired},
		{"signed by the snapshot key", forge[trust.TimestampRole](t, w.timestampBytes, nothing, w.snapshotKey), now, trust.ErrSignature},
		{"names nothing", forge[trust.TimestampRole](t, w.timestampBytes, set(object{}, "meta"), w.timestampKey), now, trust.ErrMalformed},
		{"a snapshot", w.snapshot, now, trust.ErrMalformed},
		{"too large", append(bytes.Clone(w.timestampBytes), bytes.Repeat([]byte(" "), trust.MaxTimestamp)...), now, trust.ErrTooLarge},
	} {
		after, _, err := before.Timestamp(test.raw, test.at)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
		sameState(t, after, before)
	}
}

func TestEligible(t *testing.T) {
	w := newWorld(t)
	future := w.image("1.4.0", "")
	future.Release.MinAgentSchema = topics.Schema + 1
	other := w.image("1.5.0", "1.5.0")
	other.Release.Models = []string{"cam-z"} // its floor is for that model alone
	w.targets = w.signTargets(w.targets, w.image("1.2.0", ""), w.image("1.3.0", "1.2.0"), future, other)
	_, images := func() (trust.State, trust.Images) { w.publish(2); return w.synced() }()
	facts := trust.Facts{Model: "cam-x", Hardware: "rev-b"}
	change := func(f func(*topics.Entry)) topics.Entry {
		e := w.entry("1.2.0")
		f(&e)
		return e
	}
	for _, test := range []struct {
		name  string
		entry topics.Entry
		facts trust.Facts
		want  error
	}{
		{"agreed", w.entry("1.2.0"), facts, nil},
		{"agreed, models in another order", change(func(e *topics.Entry) { e.Models = []string{"cam-y", "cam-x"} }), facts, nil},
		{"the newest", w.entry("1.3.0"), facts, nil},
		{"unknown to the release role", w.entry("9.9.9"), facts, trust.ErrUnknownTarget},
		{"another length", change(func(e *topics.Entry) { e.Target.Length++ }), facts, trust.ErrLength},
		{"another digest", change(func(e *topics.Entry) { e.Target.SHA256 = strings.Repeat("0", 64) }), facts, trust.ErrDigest},
		{"another component", change(func(e *topics.Entry) { e.Component = "radio" }), facts, trust.ErrMismatch},
		{"another release", change(func(e *topics.Entry) { e.Release = "doorbell" }), facts, trust.ErrMismatch},
		{"another version", change(func(e *topics.Entry) { e.Version = "2.0.0" }), facts, trust.ErrMismatch},
		{"more models", change(func(e *topics.Entry) { e.Models = append(e.Models, "cam-z") }), trust.Facts{Model: "cam-z", Hardware: "rev-b"}, trust.ErrMismatch},
		{"any hardware", change(func(e *topics.Entry) { e.Hardware = nil }), trust.Facts{Model: "cam-x", Hardware: "rev-a"}, trust.ErrMismatch},
		{"another model's device", w.entry("1.2.0"), trust.Facts{Model: "cam-z", Hardware: "rev-b"}, trust.ErrHardware},
		{"another revision's device", w.entry("1.2.0"), trust.Facts{Model: "cam-x", Hardware: "rev-a"}, trust.ErrHardware},
		{"below the floor of a newer release", w.entry("1.1.0"), facts, trust.ErrSecurityFloor},
		{"needs a newer agent", w.entry("1.4.0"), facts, trust.ErrSchema},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := images.Eligible(test.entry, test.facts); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	if got := images.Floor(topics.DefaultComponent, facts); got != "1.2.0" {
		t.Errorf("got floor %q, want 1.2.0", got)
	}
}

func TestReleaseOfALaterSchemaHoldsUpNobodyElse(t *testing.T) {
	w := newWorld(t)
	path := w.image("1.2.0", "").Path
	newer := forge[trust.TargetsRole](t, w.signTargets(w.targets, w.image("1.2.0", "1.1.0")), both(
		set(trust.ReleaseSchema+1, "targets", path, "custom", "schema"),
		set("unknown", "targets", path, "custom", "new"),
	), w.releaseKeys[:2]...)
	w.targets = newer
	w.publish(2)
	_, images := w.synced()
	facts := trust.Facts{Model: "cam-x", Hardware: "rev-b"}
	if err := images.Eligible(w.entry("1.1.0"), facts); err != nil {
		t.Error(err)
	}
	if err := images.Eligible(w.entry("1.2.0"), facts); !errors.Is(err, trust.ErrSchema) {
		t.Errorf("got %v, want %v", err, trust.ErrSchema)
	}
	if got := images.Floor(topics.DefaultComponent, facts); got != "1.1.0" {
		t.Errorf("got floor %q, want the newer release's 1.1.0", got)
	}
}

func TestUploadRefusals(t *testing.T) {
	w := newWorld(t)
	second := w.image("1.2.0", "")
	newer := w.signTargets(w.targets, second)
	release := w.releaseKeys[:2]
	first := w.image("1.1.0", "").Path
	for _, test := range []struct {
		name     string
		previous []byte
		raw      []byte
		at       time.Time
		want     error
	}{
		{"the first", nil, w.targets, now, nil},
		{"the next", w.targets, newer, now, nil},
		{"the same again", newer, newer, now, nil},
		{"an older one", newer, w.targets, now, trust.ErrVersionRollback},
		{"other bytes for the same version", w.targets, forge[trust.TargetsRole](t, newer, set(1, "version"), release...), now, trust.ErrVersionRollback},
		{"one signature of two", w.targets, forge[trust.TargetsRole](t, newer, nothing, release[1]), now, trust.ErrThreshold},
		{"a release vanished", w.targets, forge[trust.TargetsRole](t, newer, set(nil, "targets", first), release...), now, trust.ErrVanished},
		{"expired", w.targets, newer, now.Add(90 * day), trust.ErrExpired},
		{"the root expired", w.targets, newer, now.Add(365 * day), trust.ErrExpired},
		{"a manifest", w.targets, w.sign(w.manifest(2)), now, trust.ErrSignature},
	} {
		images, err := trust.CheckTargets(domain, w.imageRoot, test.previous, test.raw, test.at)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
		if (len(images.All()) > 0) != (test.want == nil) {
			t.Errorf("%s: got %d releases", test.name, len(images.All()))
		}
	}
	if _, err := trust.CheckTargets("other.example.org", w.imageRoot, nil, w.targets, now); !errors.Is(err, trust.ErrTrustDomain) {
		t.Errorf("got %v, want %v", err, trust.ErrTrustDomain)
	}
}

func TestTwoHoldersSignOneAfterTheOther(t *testing.T) {
	w := newWorld(t)
	spec := trust.TargetsSpec{Root: w.imageRoot, Previous: w.targets, Add: []trust.ReleaseImage{w.image("1.2.0", "")}, Expires: now.Add(day), Now: now}
	half := must[[]byte](t)(trust.SignTargets(spec, w.releaseKeys[0]))
	if _, err := trust.CheckTargets(domain, w.imageRoot, w.targets, half, now); !errors.Is(err, trust.ErrThreshold) {
		t.Errorf("got %v, want %v", err, trust.ErrThreshold)
	}
	whole := must[[]byte](t)(trust.AddSignature(w.imageRoot, half, w.releaseKeys[2]))
	if _, err := trust.CheckTargets(domain, w.imageRoot, w.targets, whole, now); err != nil {
		t.Error(err)
	}
	for name, key := range map[string]*trust.Key{"the same holder": w.releaseKeys[0], "a root key": w.rootKeys[0], "a stranger": newKey(t)} {
		if _, err := trust.AddSignature(w.imageRoot, half, key); !errors.Is(err, trust.ErrKey) {
			t.Errorf("%s: got %v, want %v", name, err, trust.ErrKey)
		}
	}
	if _, err := trust.SignTargets(spec, w.directorKeys[0]); !errors.Is(err, trust.ErrKey) {
		t.Errorf("got %v, want %v", err, trust.ErrKey)
	}
	spec.Add = []trust.ReleaseImage{w.image("1.1.0", "")}
	if _, err := trust.SignTargets(spec, w.releaseKeys[0]); !errors.Is(err, trust.ErrVanished) {
		t.Errorf("the same release again: got %v, want %v", err, trust.ErrVanished)
	}
}

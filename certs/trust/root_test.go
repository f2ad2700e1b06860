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

func TestRootRotationFiveTimes(t *testing.T) {
	w := newWorld(t)
	s := w.state()
	// Each step replaces one root key of three; all but the last root expired
	// long ago, and the device slept through all of it.
	for version := int64(2); version <= 6; version++ {
		old, signers := w.imageRoot, []*trust.Key{w.rootKeys[1], w.rootKeys[2]}
		w.rootKeys = append(w.rootKeys[1:], newKey(t))
		spec := w.imageSpec()
		if version < 6 {
			spec.Expires = now.Add(-time.Duration(version) * day)
		}
		w.imageRoot = must[[]byte](t)(trust.RotateRoot(old, spec, signers...))
		var err error
		if s, err = s.Root(trust.Image, w.imageRoot); err != nil {
			t.Fatalf("root %d: %v", version, err)
		}
		if s.RootVersion(trust.Image) != version || s.RootVersion(trust.Director) != 1 {
			t.Fatalf("got versions %d and %d", s.RootVersion(trust.Image), s.RootVersion(trust.Director))
		}
		_, _, err = s.Snapshot(w.snapshot, w.pin, now)
		if version < 6 && !errors.Is(err, trust.ErrExpired) {
			t.Errorf("under expired root %d: got %v, want %v", version, err, trust.ErrExpired)
		}
		if version == 6 && err != nil {
			t.Errorf("under the newest root: %v", err)
		}
	}
}

func TestRootRefusals(t *testing.T) {
	w := newWorld(t)
	before := w.state()
	spec := w.imageSpec()
	next := must[[]byte](t)(trust.RotateRoot(w.imageRoot, spec, w.rootKeys[:2]...))
	strangers := []*trust.Key{newKey(t), newKey(t)}
	takeover := spec
	takeover.Root = role(2, strangers...)
	stolen := must[[]byte](t)(trust.RotateRoot(w.imageRoot, takeover, append(strangers, w.rootKeys[0])...))
	lost := spec
	lost.Root = role(2, w.rootKeys[0], strangers[0], strangers[1])
	halfNew := must[[]byte](t)(trust.RotateRoot(w.imageRoot, lost, w.rootKeys[0], w.rootKeys[1]))
	forged := func(change func(object)) []byte { return forge[trust.RootRole](t, next, change, w.rootKeys...) }
	directorRole := spec
	directorRole.Targets = role(1, w.directorKeys[0], w.releaseKeys[0])
	anyID := w.rootKeys[0].ID()

	for _, test := range []struct {
		name string
		raw  []byte
		want error
	}{
		{"one signature of two", forge[trust.RootRole](t, next, nothing, w.rootKeys[0]), trust.ErrThreshold},
		{"signed by strangers", forge[trust.RootRole](t, next, nothing, strangers...), trust.ErrSignature},
		{"not signed", forge[trust.RootRole](t, next, nothing), trust.ErrSignature},
		{"new keys with one old signature of two", stolen, trust.ErrThreshold},
		{"old keys with one new signature of two", halfNew, trust.ErrThreshold},
		{"changed after signing", edit(t, next, set(1, "roles", "targets", "threshold")), trust.ErrSignature},
		{"an older version", forged(set(1, "version")), trust.ErrVersionRollback},
		{"a version skipped", forged(set(3, "version")), trust.ErrVersionGap},
		{"the director's root", w.directorRoot, trust.ErrKind},
		{"another trust domain", forged(set("other.example.org", "groundswell", "trust_domain")), trust.ErrTrustDomain},
		{"no place", forged(set(nil, "groundswell")), trust.ErrMalformed},
		{"a release key that is a director key", must[[]byte](t)(trust.RotateRoot(w.imageRoot, directorRole, w.rootKeys[:2]...)), trust.ErrKey},
		{"threshold 0", forged(set(0, "roles", "targets", "threshold")), trust.ErrMalformed},
		{"a threshold that nobody can meet", forged(set(4, "roles", "targets", "threshold")), trust.ErrMalformed},
		{"a role is missing", forged(set(nil, "roles", "snapshot")), trust.ErrMalformed},
		{"a role without keys", forged(set([]string{}, "roles", "snapshot", "keyids")), trust.ErrMalformed},
		{"a key counted twice", forged(set([]string{w.releaseKeys[0].ID(), w.releaseKeys[0].ID()}, "roles", "targets", "keyids")), trust.ErrMalformed},
		{"a key that is not there", forged(set([]string{"00"}, "roles", "targets", "keyids")), trust.ErrMalformed},
		{"a key of no length", edit(t, next, set("", "keys", anyID, "keyval", "public")), trust.ErrMalformed},
		{"a key of another kind", forged(set("rsa", "keys", anyID, "keytype")), trust.ErrMalformed},
		{"a key under another name", forged(func(o object) {
			keys := o["keys"].(object)
			keys[strings.Repeat("0", 64)] = keys[w.snapshotKey.ID()]
		}), trust.ErrMalformed},
		{"a null key", []byte(strings.Replace(string(next), `"keys":{`, `"keys":{"a":null,`, 1)), trust.ErrMalformed},
		{"targets", w.targets, trust.ErrMalformed},
		{"too large", append(bytes.Clone(next), bytes.Repeat([]byte(" "), trust.MaxRoot)...), trust.ErrTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			after, err := before.Root(trust.Image, test.raw)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			sameState(t, after, before)
		})
	}
	if after, err := before.Root(trust.Image, w.imageRoot); err != nil {
		t.Errorf("the root in force again: %v", err)
	} else {
		sameState(t, after, before)
	}
	if _, err := before.Root("other", next); !errors.Is(err, trust.ErrKind) {
		t.Errorf("got %v, want %v", err, trust.ErrKind)
	}
	if _, err := trust.NewState(domain, w.directorRoot, w.imageRoot); !errors.Is(err, trust.ErrKind) {
		t.Errorf("roots exchanged: got %v, want %v", err, trust.ErrKind)
	}
	if _, err := before.Root(trust.Image, next); err != nil {
		t.Errorf("the honest one: %v", err)
	}
}

func TestExpiredDirectorRootAcceptsNothingUntilTheNextComes(t *testing.T) {
	w := newWorld(t)
	late := now.Add(400 * day)
	m := w.manifest(10)
	m.Issued = late
	raw := must[[]byte](t)(trust.SignManifest(m, late.Add(14*day), w.directorKeys[0]))
	s := w.state()
	if _, _, err := s.Manifest(raw, cohort, late); !errors.Is(err, trust.ErrExpired) {
		t.Fatalf("got %v, want %v", err, trust.ErrExpired)
	}
	spec := w.directorSpec()
	spec.Expires = late.Add(365 * day)
	s, err := s.Root(trust.Director, must[[]byte](t)(trust.RotateRoot(w.directorRoot, spec, w.directorRootKeys[:2]...)))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Manifest(raw, cohort, late); err != nil {
		t.Errorf("a device with expired metadata cannot recover: %v", err)
	}
}

// TestFastForwardRecovery: a thief of a director key has signed the highest
// version and the latest time that fit; root drops the key.
func TestFastForwardRecovery(t *testing.T) {
	w := newWorld(t)
	thief, honest := w.directorKeys[0], w.directorKeys[1]
	const highest = 1<<53 - 1
	stolen := w.manifest(highest)
	stolen.Issued = now.Add(364 * day)
	s, _ := w.synced()
	s, _, err := s.Manifest(must[[]byte](t)(trust.SignManifest(stolen, now.Add(9999*day), thief)), cohort, now)
	if err != nil {
		t.Fatal(err)
	}
	if s, _, err = s.Assignment(must[[]byte](t)(trust.SignAssignment(w.assignment(highest), now.Add(9999*day), thief)), device, now); err != nil {
		t.Fatal(err)
	}
	if s, _, err = s.Command(must[[]byte](t)(trust.SignCommand(w.command(highest), now.Add(9999*day), thief)), device, now); err != nil {
		t.Fatal(err)
	}

	good := must[[]byte](t)(trust.SignManifest(w.manifest(11), now.Add(14*day), honest))
	if _, _, err := s.Manifest(good, cohort, now); err == nil {
		t.Fatal("the test is worthless: nothing was fast-forwarded")
	}

	// A root that only adds a key forgets nothing.
	w.directorKeys = append(w.directorKeys, newKey(t))
	added := must[[]byte](t)(trust.RotateRoot(w.directorRoot, w.directorSpec(), w.directorRootKeys[:2]...))
	s, err = s.Root(trust.Director, added)
	if err != nil {
		t.Fatal(err)
	}
	if s.CommandVersion() != highest || len(s.ManifestMarks) == 0 || s.Floor().IsZero() {
		t.Errorf("adding a key forgot versions: %+v", s)
	}

	w.directorKeys = w.directorKeys[1:]
	s, err = s.Root(trust.Director, must[[]byte](t)(trust.RotateRoot(added, w.directorSpec(), w.directorRootKeys[:2]...)))
	if err != nil {
		t.Fatal(err)
	}
	if s, _, err = s.Manifest(good, cohort, now); err != nil {
		t.Errorf("manifest: %v", err)
	}
	if s, _, err = s.Assignment(must[[]byte](t)(trust.SignAssignment(w.assignment(1), now.Add(day), honest)), device, now); err != nil {
		t.Errorf("assignment: %v", err)
	}
	if s, _, err = s.Command(must[[]byte](t)(trust.SignCommand(w.command(1), now.Add(day), honest)), device, now); err != nil {
		t.Errorf("command: %v", err)
	}
	if _, _, err := s.Manifest(must[[]byte](t)(trust.SignManifest(stolen, now.Add(9999*day), thief)), cohort, now); !errors.Is(err, trust.ErrSignature) {
		t.Errorf("the thief's key: got %v, want %v", err, trust.ErrSignature)
	}
	if _, err := s.Images(now); err != nil {
		t.Errorf("the image repository forgot its releases: %v", err)
	}
}

func TestFastForwardRecoveryOfTheImageRepository(t *testing.T) {
	w := newWorld(t)
	const highest = 1<<53 - 1
	w.publish(highest)
	s, _ := w.synced()
	s, _, err := s.Timestamp(w.timestampBytes, now)
	if err != nil {
		t.Fatal(err)
	}
	w.snapshotKey = newKey(t)
	w.imageRoot = must[[]byte](t)(trust.RotateRoot(w.imageRoot, w.imageSpec(), w.rootKeys[:2]...))
	if s, err = s.Root(trust.Image, w.imageRoot); err != nil {
		t.Fatal(err)
	}
	w.publish(2)
	if !s.NeedsSnapshot(w.pin) {
		t.Error("the snapshot is not asked for again")
	}
	if s, _, err = s.Timestamp(w.timestampBytes, now); err != nil {
		t.Errorf("timestamp: %v", err)
	}
	if s, _, err = s.Snapshot(w.snapshot, w.pin, now); err != nil {
		t.Errorf("snapshot: %v", err)
	}
	// The releases are still those that the release keys signed: none of them
	// may vanish now.
	without := forge[trust.TargetsRole](t, w.targets, both(set(object{}, "targets"), set(2, "version")), w.releaseKeys...)
	snapshot, pin := forgeSnapshot(t, w, without, 3)
	robbed, _, err := s.Snapshot(snapshot, pin, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := robbed.Targets(without, now); !errors.Is(err, trust.ErrVanished) {
		t.Errorf("got %v, want %v", err, trust.ErrVanished)
	}
	if _, _, err := s.Targets(w.targets, now); err != nil {
		t.Errorf("targets: %v", err)
	}
}

func TestDroppedReleaseKeyForgetsItsReleases(t *testing.T) {
	w := newWorld(t)
	s, _ := w.synced()
	oldRoot := w.imageRoot
	w.releaseKeys = []*trust.Key{w.releaseKeys[0], w.releaseKeys[1], newKey(t)}
	w.imageRoot = must[[]byte](t)(trust.RotateRoot(oldRoot, w.imageSpec(), w.rootKeys[:2]...))
	s, err := s.Root(trust.Image, w.imageRoot)
	if err != nil {
		t.Fatal(err)
	}
	rotated := s
	if _, err := s.Images(now); !errors.Is(err, trust.ErrPin) {
		t.Errorf("got %v, want %v", err, trust.ErrPin)
	}
	// The holders sign the list anew with the keys that they have now.
	w.targets = must[[]byte](t)(trust.SignTargets(trust.TargetsSpec{
		Root: w.imageRoot, Previous: w.targets, PreviousRoot: oldRoot, Expires: now.Add(day), Now: now,
	}, w.releaseKeys[1:]...))
	w.publish(2)
	if s, _, err = s.Snapshot(w.snapshot, w.pin, now); err != nil {
		t.Fatal(err)
	}
	if _, images, err := s.Targets(w.targets, now); err != nil || len(images.All()) != 1 {
		t.Errorf("got %d releases, %v", len(images.All()), err)
	}

	// Nothing binds the holders to what the dropped key signed: a thief's
	// release may be left out.
	w.targets = must[[]byte](t)(trust.SignTargets(trust.TargetsSpec{
		Root: w.imageRoot, Add: []trust.ReleaseImage{w.image("1.2.0", "")}, Expires: now.Add(day), Now: now,
	}, w.releaseKeys[1:]...))
	w.publish(1)
	if rotated, _, err = rotated.Snapshot(w.snapshot, w.pin, now); err != nil {
		t.Fatal(err)
	}
	if _, images, err := rotated.Targets(w.targets, now); err != nil || len(images.All()) != 1 {
		t.Errorf("got %d releases, %v", len(images.All()), err)
	}

	old := must[trust.RootInfo](t)(trust.CheckRoot(domain, trust.Image, oldRoot))
	next := must[trust.RootInfo](t)(trust.CheckRotation(domain, trust.Image, oldRoot, w.imageRoot))
	if !old.Dropped(next, trust.RoleTargets) || old.Dropped(next, trust.RoleSnapshot) || old.Dropped(old, trust.RoleTargets) {
		t.Error("got the wrong roles that dropped a key")
	}
}

func TestCheckRotationSaysWhatTheRootSays(t *testing.T) {
	w := newWorld(t)
	half := must[[]byte](t)(trust.RotateRoot(w.directorRoot, w.directorSpec(), w.directorRootKeys[0]))
	if _, err := trust.CheckRotation(domain, trust.Director, w.directorRoot, half); !errors.Is(err, trust.ErrThreshold) {
		t.Errorf("got %v, want %v", err, trust.ErrThreshold)
	}
	whole := must[[]byte](t)(trust.AddSignature(w.directorRoot, half, w.directorRootKeys[2]))
	info, err := trust.CheckRotation(domain, trust.Director, w.directorRoot, whole)
	if err != nil {
		t.Fatal(err)
	}
	keys := info.Roles[trust.RoleTargets]
	if info.Version != 2 || !info.Expires.Equal(now.Add(365*day)) || keys.Threshold != 1 || len(keys.Keys) != 2 || keys.Keys[0].ID() != w.directorKeys[0].ID() {
		t.Errorf("got %+v", info)
	}
	if _, err := trust.AddSignature(w.directorRoot, half, w.rootKeys[0]); !errors.Is(err, trust.ErrKey) {
		t.Errorf("got %v, want %v", err, trust.ErrKey)
	}
	if _, err := trust.InitRoot(w.directorSpec(), w.rootKeys[0]); !errors.Is(err, trust.ErrKey) {
		t.Errorf("got %v, want %v", err, trust.ErrKey)
	}
}

func TestStateFileThatWasDamagedIsRefused(t *testing.T) {
	w := newWorld(t)
	s, _ := w.synced()
	s.ImageTargets = []byte("{}")
	var m topics.Manifest
	for name, data := range map[string][]byte{
		"cut off":         []byte(`{"trust_domain":"fleet.exa`),
		"empty":           nil,
		"without roots":   []byte(`{"trust_domain":"fleet.example.org"}`),
		"another object":  must[[]byte](t)(marshal(m)),
		"damaged targets": must[[]byte](t)(marshal(s)),
	} {
		if _, err := trust.ParseState(data); !errors.Is(err, trust.ErrMalformed) {
			t.Errorf("%s: got %v, want %v", name, err, trust.ErrMalformed)
		}
	}
}

package trust_test

import (
	"bytes"
	"testing"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// The fuzzers hold the same claim: whatever a broker or a mirror sends, the
// parsers neither panic nor accept anything but what was signed. What is
// accepted may differ from the seeds only where the signature does not look:
// white space and order.

func FuzzManifest(f *testing.F) {
	w := newWorld(f)
	s := w.state()
	good := w.sign(w.manifest(10))
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"targets":{`), []byte(`"targets":{"a":null,`), 1))
	f.Add([]byte(`{"signed":{"_type":"targets"},"signatures":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		after, m, err := s.Manifest(raw, cohort, now)
		if err != nil {
			sameState(t, after, s)
			return
		}
		if m.Version != 10 || len(m.Entries) != 1 || m.Entries[0].Target != w.entry("1.1.0").Target {
			t.Errorf("accepted %+v", m)
		}
	})
}

func FuzzAssignment(f *testing.F) {
	w := newWorld(f)
	s := w.state()
	f.Add(must[[]byte](f)(trust.SignAssignment(w.assignment(10), now.Add(day), w.directorKeys[0])))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, a, err := s.Assignment(raw, device, now); err == nil && (a.Version != 10 || len(a.Cohorts) != 1) {
			t.Errorf("accepted %+v", a)
		}
	})
}

func FuzzCommand(f *testing.F) {
	w := newWorld(f)
	s := w.state()
	f.Add(must[[]byte](f)(trust.SignCommand(w.command(10), now.Add(day), w.directorKeys[0])))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, c, err := s.Command(raw, device, now); err == nil && (c.Version != 10 || c.Action != topics.CommandReport) {
			t.Errorf("accepted %+v", c)
		}
	})
}

func FuzzRoot(f *testing.F) {
	w := newWorld(f)
	s := w.state()
	f.Add(must[[]byte](f)(trust.RotateRoot(w.imageRoot, w.imageSpec(), w.rootKeys[:2]...)))
	f.Add(w.imageRoot)
	f.Fuzz(func(t *testing.T, raw []byte) {
		after, err := s.Root(trust.Image, raw)
		if err != nil {
			sameState(t, after, s)
			return
		}
		if v := after.RootVersion(trust.Image); v != 2 && !bytes.Equal(raw, w.imageRoot) {
			t.Errorf("accepted root %d", v)
		}
	})
}

func FuzzTargets(f *testing.F) {
	w := newWorld(f)
	f.Add(w.targets)
	f.Add(w.sign(w.manifest(1)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		images, err := trust.CheckTargets(domain, w.imageRoot, nil, raw, now)
		if err == nil && (len(images.All()) != 1 || images.All()[0].SHA256 != w.image("1.1.0", "").SHA256) {
			t.Errorf("accepted %+v", images.All())
		}
	})
}

func FuzzSnapshotAndTimestamp(f *testing.F) {
	w := newWorld(f)
	s := w.state()
	f.Add(w.snapshot)
	f.Add(w.timestampBytes)
	f.Fuzz(func(t *testing.T, raw []byte) {
		pin := topics.SnapshotPin{Version: 1, Length: int64(len(raw)), SHA256: digest(raw)}
		if _, names, err := s.Snapshot(raw, pin, now); err == nil && names.SHA256 != digest(w.targets) {
			t.Errorf("accepted %+v", names)
		}
		if _, names, err := s.Timestamp(raw, now); err == nil && names != w.pin {
			t.Errorf("accepted %+v", names)
		}
	})
}

// FuzzStolenKeys: what lies behind the signature check, for thieves of the
// online keys.
func FuzzStolenKeys(f *testing.F) {
	w := newWorld(f)
	s, _ := w.synced()
	f.Add(w.sign(w.manifest(11)))
	f.Add(w.snapshot)
	f.Add(w.timestampBytes)
	f.Add(w.signTargets(w.targets, w.image("1.2.0", "1.0.0")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if forged, err := trust.Forge[trust.TargetsRole](raw, w.directorKeys[0]); err == nil {
			if _, m, err := s.Manifest(forged, cohort, now); err == nil && m.Validate() != nil {
				t.Errorf("accepted %+v", m)
			}
		}
		if forged, err := trust.Forge[trust.TargetsRole](raw, w.releaseKeys[:2]...); err == nil {
			images, err := trust.CheckTargets(domain, w.imageRoot, w.targets, forged, now)
			if _, ok := images.Lookup(w.image("1.1.0", "").Path); err == nil && !ok {
				t.Error("a release vanished")
			}
		}
		if forged, err := trust.Forge[trust.SnapshotRole](raw, w.snapshotKey); err == nil {
			_, names, err := s.Snapshot(forged, topics.SnapshotPin{Version: 2, Length: int64(len(forged)), SHA256: digest(forged)}, now)
			if err == nil && (names.Length > trust.MaxTargets || len(names.SHA256) != 64) {
				t.Errorf("accepted %+v", names)
			}
		}
		if forged, err := trust.Forge[trust.TimestampRole](raw, w.timestampKey); err == nil {
			_, names, err := s.Timestamp(forged, now)
			if err == nil && (names.Length > trust.MaxSnapshot || len(names.SHA256) != 64) {
				t.Errorf("accepted %+v", names)
			}
		}
	})
}

func FuzzParseState(f *testing.F) {
	w := newWorld(f)
	s, _ := w.synced()
	f.Add(must[[]byte](f)(marshal(s)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := trust.ParseState(data)
		if err != nil {
			return
		}
		_, _ = s.Images(now) // an error is as good as another
		if s.RootVersion(trust.Image) < 1 || s.RootVersion(trust.Director) < 1 {
			t.Error("accepted a state without roots")
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN GROUNDSWELL ENCRYPTED KEY-----\nKdf: scrypt-1-8-1\n\nMC4=\n-----END GROUNDSWELL ENCRYPTED KEY-----\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = trust.ParseKey(data, nil) // that it does not panic is the claim
	})
}

package trust_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

func TestManifestRefusals(t *testing.T) {
	w := newWorld(t)
	director, stranger := w.directorKeys[0], newKey(t)
	good := w.sign(w.manifest(10))
	before, _, err := w.state().Manifest(good, cohort, now)
	if err != nil {
		t.Fatal(err)
	}
	newer := w.sign(w.manifest(11))
	target := "targets"
	path := w.image("1.1.0", "").Path
	forged := func(change func(object)) []byte { return forge[trust.TargetsRole](t, newer, change, director) }
	inBody := func(value any, path ...string) []byte {
		return forged(set(value, append([]string{"groundswell"}, path...)...))
	}
	signedTwice := bytes.Replace(newer, []byte(`"signatures":[`), []byte(`"signatures":[`+string(signatureOf(t, newer))+`,`), 1)

	for _, test := range []struct {
		name string
		raw  []byte
		want error
	}{
		{"signed by a stranger", forge[trust.TargetsRole](t, newer, nothing, stranger), trust.ErrSignature},
		{"signed by release keys", forge[trust.TargetsRole](t, newer, nothing, w.releaseKeys...), trust.ErrSignature},
		{"signed by director root keys", forge[trust.TargetsRole](t, newer, nothing, w.directorRootKeys...), trust.ErrSignature},
		{"not signed", forge[trust.TargetsRole](t, newer, nothing), trust.ErrSignature},
		{"changed after signing", edit(t, newer, set("camera-2", "groundswell", "cohort")), trust.ErrSignature},
		{"a field added after signing", edit(t, newer, set("x", "groundswell", "extra")), trust.ErrSignature},
		{"a target added after signing", edit(t, newer, set(object{"length": 1, "hashes": object{"sha256": strings.Repeat("0", 64)}}, target, "evil")), trust.ErrSignature},
		{"the same signature twice", signedTwice, trust.ErrMalformed},
		{"expired", forged(set(rfc3339(now), "expires")), trust.ErrExpired},
		{"issued after its expiry", inBody(rfc3339(now.Add(15*day)), "issued"), trust.ErrExpired},
		{"issued after the root's expiry", forged(both(set(rfc3339(now.Add(366*day)), "groundswell", "issued"), set(rfc3339(now.Add(367*day)), "expires"))), trust.ErrExpired},
		{"an older version", w.sign(w.manifest(9)), trust.ErrVersionRollback},
		{"other bytes for the same version", forge[trust.TargetsRole](t, good, set("y", "groundswell", "extra"), director), trust.ErrVersionRollback},
		{"another cohort", inBody("garage", "cohort"), trust.ErrName},
		{"no cohort", inBody(nil, "cohort"), trust.ErrName},
		{"an assignment", must[[]byte](t)(trust.SignAssignment(w.assignment(11), now.Add(day), director)), trust.ErrKind},
		{"a command", must[[]byte](t)(trust.SignCommand(w.command(11), now.Add(day), director)), trust.ErrKind},
		{"another trust domain", inBody("other.example.org", "trust_domain"), trust.ErrTrustDomain},
		{"a newer schema", inBody(topics.Schema+1, "schema"), trust.ErrSchema},
		{"a newer schema that fits nothing known", forged(set(object{"schema": 9, "cohort": 7}, "groundswell")), trust.ErrMalformed},
		{"no schema", inBody(nil, "schema"), trust.ErrMalformed},
		{"inner and outer version differ", inBody(12, "version"), trust.ErrMalformed},
		{"no body", forged(set(nil, "groundswell")), trust.ErrMalformed},
		{"a body that is a list", forged(set([]any{}, "groundswell")), trust.ErrMalformed},
		{"a field of the wrong type", inBody("one", "entries"), trust.ErrMalformed},
		{"an entry without its target", forged(set(nil, target, path)), trust.ErrMalformed},
		{"an entry whose target has another length", forged(set(1, target, path, "length")), trust.ErrMalformed},
		{"an entry whose target has another digest", forged(set(strings.Repeat("0", 64), target, path, "hashes", "sha256")), trust.ErrMalformed},
		{"delegations", forged(set(object{"keys": object{}, "roles": []any{}}, "delegations")), trust.ErrMalformed},
		{"a fraction of a second", forged(set(now.Add(day+time.Millisecond).Format(time.RFC3339Nano), "expires")), trust.ErrMalformed},
		{"another time zone", forged(set("2027-03-02T12:00:00+01:00", "expires")), trust.ErrMalformed},
		{"specification 2", forged(set("2.0.0", "spec_version")), trust.ErrMalformed},
		{"version 0", forged(set(0, "version")), trust.ErrMalformed},
		{"image targets", w.targets, trust.ErrSignature},
		{"a root", w.directorRoot, trust.ErrMalformed},
		{"a snapshot", w.snapshot, trust.ErrMalformed},
		{"nothing", nil, trust.ErrMalformed},
		{"no JSON", []byte("manifest"), trust.ErrMalformed},
		{"a list", []byte("[]"), trust.ErrMalformed},
		{"null", []byte("null"), trust.ErrMalformed},
		{"a null target", []byte(strings.Replace(string(newer), `"targets":{`, `"targets":{"a":null,`, 1)), trust.ErrMalformed},
		{"a name twice", []byte(strings.Replace(string(newer), `"cohort":`, `"cohort":"x","cohort":`, 1)), trust.ErrMalformed},
		{"a second signed part", []byte(strings.Replace(string(newer), `{"signatures"`, `{"Signed":{},"signatures"`, 1)), trust.ErrMalformed},
		{"a float", []byte(strings.Replace(string(newer), `"priority":0`, `"priority":0.5`, 1)), trust.ErrMalformed},
		{"a number past 53 bits", []byte(strings.Replace(string(newer), `"priority":0`, `"priority":9007199254740993`, 1)), trust.ErrMalformed},
		{"text after the end", append(bytes.Clone(newer), "{}"...), trust.ErrMalformed},
		{"not UTF-8", bytes.Replace(newer, []byte(cohort), []byte("lobb\xff"), 1), trust.ErrMalformed},
		{"deep", []byte(`{"signed":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `,"signatures":[]}`), trust.ErrMalformed},
		{"too large", append(bytes.Clone(newer), bytes.Repeat([]byte(" "), topics.MaxManifest)...), trust.ErrTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			after, m, err := before.Manifest(test.raw, cohort, now)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if m.Cohort != "" || m.Entries != nil {
				t.Errorf("got a manifest with an error: %+v", m)
			}
			sameState(t, after, before)
		})
	}

	// None of it stood in the way of the good one.
	if _, _, err := before.Manifest(newer, cohort, now); err != nil {
		t.Error(err)
	}
}

func TestManifestOfOneCohortIsRefusedOnTheTopicOfAnother(t *testing.T) {
	w := newWorld(t)
	raw := w.sign(w.manifest(10))
	before := w.state()
	after, _, err := before.Manifest(raw, "garage", now)
	if !errors.Is(err, trust.ErrName) {
		t.Errorf("got %v, want %v", err, trust.ErrName)
	}
	sameState(t, after, before)
}

func TestCohortsCountVersionsSeparately(t *testing.T) {
	w := newWorld(t)
	s, _, err := w.state().Manifest(w.sign(w.manifest(1_000)), cohort, now)
	if err != nil {
		t.Fatal(err)
	}
	other := w.manifest(5)
	other.Cohort = "garage"
	kept := s
	if s, _, err = s.Manifest(w.sign(other), "garage", now); err != nil {
		t.Fatal(err)
	}
	if len(kept.ManifestMarks) != 1 || len(s.ManifestMarks) != 2 {
		t.Errorf("got %d cohorts in the old state and %d in the new, want 1 and 2", len(kept.ManifestMarks), len(s.ManifestMarks))
	}
}

func TestSameManifestAgainIsFine(t *testing.T) {
	w := newWorld(t)
	raw := w.sign(w.manifest(10))
	s, _, err := w.state().Manifest(raw, cohort, now)
	if err != nil {
		t.Fatal(err)
	}
	again, m, err := s.Manifest(raw, cohort, now.Add(time.Hour))
	if err != nil || m.Version != 10 {
		t.Errorf("got version %d, %v", m.Version, err)
	}
	sameState(t, again, s)
}

func TestFieldsOfALaterMinorVersionAreTolerated(t *testing.T) {
	w := newWorld(t)
	raw := forge[trust.TargetsRole](t, w.sign(w.manifest(10)), func(signed object) {
		body := signed["groundswell"].(object)
		body["new_in_year_5"] = object{"a": []any{1, "b"}}
		body["entries"].([]any)[0].(object)["also_new"] = true
		signed["targets"].(object)["delta/1"] = object{"length": 7, "hashes": object{"sha256": strings.Repeat("a", 64)}, "custom": object{"x": 1}}
	}, w.directorKeys[0])
	if _, m, err := w.state().Manifest(raw, cohort, now); err != nil || len(m.Entries) != 1 {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestManifestWithoutEntriesIsFine(t *testing.T) {
	w := newWorld(t)
	m := w.manifest(10)
	m.Entries, m.Images = nil, nil
	if _, got, err := w.state().Manifest(w.sign(m), cohort, now); err != nil || len(got.Entries) != 0 || got.Images != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAssignmentAndCommandRefusals(t *testing.T) {
	w := newWorld(t)
	director := w.directorKeys[1]
	signA := func(a topics.Assignment) []byte {
		return must[[]byte](t)(trust.SignAssignment(a, now.Add(14*day), director))
	}
	signC := func(c topics.Command) []byte {
		return must[[]byte](t)(trust.SignCommand(c, now.Add(time.Hour), director))
	}
	assignment := func(s trust.State, raw []byte, at time.Time) (trust.State, error) {
		s, _, err := s.Assignment(raw, device, at)
		return s, err
	}
	command := func(s trust.State, raw []byte, at time.Time) (trust.State, error) {
		s, _, err := s.Command(raw, device, at)
		return s, err
	}
	before := w.state()
	for _, step := range []func() (trust.State, error){
		func() (trust.State, error) { return assignment(before, signA(w.assignment(10)), now) },
		func() (trust.State, error) { return command(before, signC(w.command(10)), now) },
	} {
		var err error
		if before, err = step(); err != nil {
			t.Fatal(err)
		}
	}
	if before.CommandVersion() != 10 {
		t.Errorf("got command version %d, want 10", before.CommandVersion())
	}
	elsewhereA, elsewhereC := w.assignment(11), w.command(11)
	elsewhereA.Device, elsewhereC.Device = "cam-2", "cam-2"
	foreignA, foreignC := w.assignment(11), w.command(11)
	foreignA.TrustDomain, foreignC.TrustDomain = "other.example.org", "other.example.org"

	for _, test := range []struct {
		name string
		call func(trust.State, []byte, time.Time) (trust.State, error)
		raw  []byte
		at   time.Time
		want error
	}{
		{"assignment of another device", assignment, signA(elsewhereA), now, trust.ErrName},
		{"assignment of another trust domain", assignment, signA(foreignA), now, trust.ErrTrustDomain},
		{"older assignment", assignment, signA(w.assignment(9)), now, trust.ErrVersionRollback},
		{"expired assignment", assignment, signA(w.assignment(11)), now.Add(14 * day), trust.ErrExpired},
		{"manifest as assignment", assignment, w.sign(w.manifest(11)), now, trust.ErrKind},
		{"command as assignment", assignment, signC(w.command(11)), now, trust.ErrKind},
		{"assignment by a stranger", assignment, forge[trust.TargetsRole](t, signA(w.assignment(11)), nothing, newKey(t)), now, trust.ErrSignature},
		{"assignment with an unknown mode", assignment, forge[trust.TargetsRole](t, signA(w.assignment(11)), set("telepathy", "groundswell", "polling", "mode"), director), now, trust.ErrMalformed},
		{"large assignment", assignment, append(signA(w.assignment(11)), bytes.Repeat([]byte(" "), topics.MaxAssignment)...), now, trust.ErrTooLarge},
		{"command for another device", command, signC(elsewhereC), now, trust.ErrName},
		{"command of another trust domain", command, signC(foreignC), now, trust.ErrTrustDomain},
		{"older command", command, signC(w.command(9)), now, trust.ErrVersionRollback},
		{"expired command", command, signC(w.command(11)), now.Add(time.Hour), trust.ErrExpired},
		{"assignment as command", command, signA(w.assignment(11)), now, trust.ErrKind},
		{"unknown command", command, forge[trust.TargetsRole](t, signC(w.command(11)), set("explode", "groundswell", "action"), director), now, trust.ErrMalformed},
		{"large command", command, append(signC(w.command(11)), bytes.Repeat([]byte(" "), topics.MaxCommand)...), now, trust.ErrTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			after, err := test.call(before, test.raw, test.at)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			sameState(t, after, before)
		})
	}
}

func TestTimeFloorIsWhatTheDirectorLastIssued(t *testing.T) {
	w := newWorld(t)
	later := w.manifest(10)
	later.Issued = now.Add(10 * day)
	// The device's clock stands in 1970: a verified issue time is better.
	s, _, err := w.state().Manifest(w.sign(later), cohort, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if !s.Floor().Equal(later.Issued) {
		t.Errorf("got floor %s, want %s", s.Floor(), later.Issued)
	}
	// What expired before the floor is expired, whatever the clock says.
	c := must[[]byte](t)(trust.SignCommand(w.command(1), now.Add(time.Hour), w.directorKeys[0]))
	if _, _, err := s.Command(c, device, now); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("got %v, want %v", err, trust.ErrExpired)
	}
	w.snapshot, w.pin = pinUntil(t, w, now.Add(5*day))
	if _, _, err := s.Snapshot(w.snapshot, w.pin, now); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("snapshot: got %v, want %v", err, trust.ErrExpired)
	}
	synced, _ := newWorld(t).synced()
	synced.Issued = now.Add(90 * day)
	if _, err := synced.Images(now); !errors.Is(err, trust.ErrExpired) {
		t.Errorf("targets: got %v, want %v", err, trust.ErrExpired)
	}
	// An earlier issue does not lower it.
	earlier := w.assignment(1)
	s, _, err = s.Assignment(must[[]byte](t)(trust.SignAssignment(earlier, now.Add(14*day), w.directorKeys[0])), device, now)
	if err != nil || !s.Floor().Equal(later.Issued) {
		t.Errorf("got floor %s, %v", s.Floor(), err)
	}
}

func TestSigningRefusesWhatNobodyWouldAccept(t *testing.T) {
	w := newWorld(t)
	key := w.directorKeys[0]
	for name, spoil := range map[string]func(*topics.Manifest){
		"no cohort":  func(m *topics.Manifest) { m.Cohort = "" },
		"wrong kind": func(m *topics.Manifest) { m.Kind = "command" },
		"no pin":     func(m *topics.Manifest) { m.Images = nil },
		"two artifacts": func(m *topics.Manifest) {
			e := w.entry("1.1.0")
			e.Rollout, e.Target.Length = "r-2", 1
			m.Entries = append(m.Entries, e)
		},
		"huge priority": func(m *topics.Manifest) { m.Entries[0].Priority = 1 << 60 },
		"too many": func(m *topics.Manifest) {
			for i := range 100 {
				e := w.entry("1.1.0")
				e.Rollout = fmt.Sprintf("r-%d", i)
				m.Entries = append(m.Entries, e)
			}
		},
	} {
		m := w.manifest(10)
		spoil(&m)
		if _, err := trust.SignManifest(m, now.Add(day), key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// What a stolen broker can replay, and what a thief of a director key can sign: each is
// refused by name, and the device stays as it was. Versions below are relative to
// what the device holds.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	stranger := must[*trust.Key](t)(trust.GenerateKey())
	const held, good = int64(1_000_000), time.Hour
	update := func(m *topics.Manifest) { m.Entries = []topics.Entry{entry(image)} }
	nested := func(signed map[string]any) {
		var deep any = "x"
		for range 40 {
			deep = []any{deep}
		}
		signed["x"] = deep
	}
	// in changes a field of the body, or of its first entry.
	in := func(field string, value any) func(map[string]any) {
		return func(signed map[string]any) {
			body := signed["groundswell"].(map[string]any)
			if name, ok := strings.CutPrefix(field, "entry."); ok {
				body = body["entries"].([]any)[0].(map[string]any)
				field = name
			}
			body[field] = value
		}
	}
	for _, c := range []struct {
		name string
		kind topics.Kind
		raw  func(p papers) []byte
		want error
	}{
		{"manifest expired", topics.KindManifest, func(p papers) []byte { return p.manifest(held+1, update, -time.Minute, f.director) }, trust.ErrExpired},
		{"manifest older and not expired", topics.KindManifest, func(p papers) []byte { return p.manifest(held-1, update, good, f.director) }, trust.ErrVersionRollback},
		{"manifest of the same version with other words", topics.KindManifest, func(p papers) []byte { return p.manifest(held, update, good, f.director) }, trust.ErrVersionRollback},
		{"manifest of another cohort", topics.KindManifest, func(p papers) []byte {
			return p.manifest(held+1, func(m *topics.Manifest) { update(m); m.Cohort = "garden" }, good, f.director)
		}, trust.ErrName},
		{"assignment in place of a manifest", topics.KindManifest, func(p papers) []byte { return p.assignment(held+1, nil, good, f.director) }, trust.ErrKind},
		{"manifest of another trust domain", topics.KindManifest, func(p papers) []byte {
			return p.manifest(held+1, func(m *topics.Manifest) { update(m); m.TrustDomain = "other.test" }, good, f.director)
		}, trust.ErrTrustDomain},
		{"manifest by a stranger", topics.KindManifest, func(p papers) []byte { return p.manifest(held+1, update, good, stranger) }, trust.ErrSignature},
		{"manifest by a release key", topics.KindManifest, func(p papers) []byte { return p.manifest(held+1, update, good, f.release) }, trust.ErrSignature},
		{"manifest with a byte changed", topics.KindManifest, func(p papers) []byte {
			return bytes.Replace(p.manifest(held+1, update, good, f.director), []byte(`"1.1.0"`), []byte(`"1.2.0"`), 1)
		}, trust.ErrSignature},
		{"manifest of a newer schema", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, in("schema", 99))
		}, trust.ErrSchema},
		{"manifest too large", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, in("padding", strings.Repeat("x", 20<<10)))
		}, trust.ErrTooLarge},
		{"manifest nested", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, nested)
		}, trust.ErrMalformed},
		{"manifest with a name twice", topics.KindManifest, func(p papers) []byte {
			return bytes.Replace(p.manifest(held+1, update, good, f.director), []byte(`"signed":{`), []byte(`"signed":{"version":1,`), 1)
		}, trust.ErrMalformed},
		{"manifest with another signed part", topics.KindManifest, func(p papers) []byte {
			return bytes.Replace(p.manifest(held+1, update, good, f.director), []byte(`"signed":{`), []byte(`"Signed":{},"signed":{`), 1)
		}, trust.ErrMalformed},
		{"manifest with many signatures", topics.KindManifest, func(p papers) []byte {
			var all []string
			for i := range 1000 {
				all = append(all, fmt.Sprintf(`{"keyid":"%d","sig":"00"}`, i))
			}
			return bytes.Replace(p.manifest(held+1, update, good, f.director), []byte(`"signatures":[`), []byte(`"signatures":[`+strings.Join(all, ",")+","), 1)
		}, trust.ErrTooLarge},
		{"manifest with one signature many times", topics.KindManifest, func(p papers) []byte {
			raw := p.manifest(held+1, update, good, stranger)
			one := raw[bytes.Index(raw, []byte(`[{`))+1 : bytes.Index(raw, []byte(`}]`))+1]
			return bytes.Replace(raw, one, bytes.Join([][]byte{one, one, one}, []byte(",")), 1)
		}, trust.ErrMalformed},
		{"manifest that is rubbish", topics.KindManifest, func(papers) []byte { return []byte("rubbish") }, trust.ErrMalformed},
		{"manifest that is empty", topics.KindManifest, func(papers) []byte { return nil }, trust.ErrMalformed},
		{"component that climbs", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, in("entry.component", "../../../../etc"))
		}, trust.ErrMalformed},
		{"version that climbs", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, in("entry.version", "1.1.0/../../../etc"))
		}, trust.ErrMalformed},
		{"release that climbs", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, in("entry.release", "../camera"))
		}, trust.ErrMalformed},
		{"rollout that climbs", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, in("entry.rollout", "../../journal"))
		}, trust.ErrMalformed},
		{"digest that climbs", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, in("entry.target", map[string]any{"path": "x", "length": 1, "sha256": strings.Repeat("../", 21) + "x"}))
		}, trust.ErrMalformed},
		{"target that is not among the targets", topics.KindManifest, func(p papers) []byte {
			return forge(p.t, p.manifest(held+1, update, good, f.director), f.director, func(signed map[string]any) { signed["targets"] = map[string]any{} })
		}, trust.ErrMalformed},

		{"assignment expired", topics.KindAssignment, func(p papers) []byte { return p.assignment(held+1, nil, -time.Minute, f.director) }, trust.ErrExpired},
		{"assignment older and not expired", topics.KindAssignment, func(p papers) []byte { return p.assignment(held-1, nil, good, f.director) }, trust.ErrVersionRollback},
		{"assignment of another device", topics.KindAssignment, func(p papers) []byte {
			return p.assignment(held+1, func(a *topics.Assignment) { a.Device = "cam-other" }, good, f.director)
		}, trust.ErrName},
		{"assignment by a stranger", topics.KindAssignment, func(p papers) []byte { return p.assignment(held+1, nil, good, stranger) }, trust.ErrSignature},
		{"manifest in place of an assignment", topics.KindAssignment, func(p papers) []byte { return p.manifest(held+1, nil, good, f.director) }, trust.ErrKind},
		{"cohort that climbs", topics.KindAssignment, func(p papers) []byte {
			return forge(p.t, p.assignment(held+1, nil, good, f.director), f.director, in("cohorts", []any{"../../../etc"}))
		}, trust.ErrMalformed},
		{"cohort that is a wildcard", topics.KindAssignment, func(p papers) []byte {
			return forge(p.t, p.assignment(held+1, nil, good, f.director), f.director, in("cohorts", []any{"+"}))
		}, trust.ErrMalformed},
		{"time zone that climbs", topics.KindAssignment, func(p papers) []byte {
			return forge(p.t, p.assignment(held+1, nil, good, f.director), f.director, in("time_zone", "../../../etc/passwd"))
		}, trust.ErrMalformed},

		{"command of another device", topics.KindCommand, func(p papers) []byte {
			return p.command(held+1, func(c *topics.Command) { c.Device = "cam-other" }, good, f.director)
		}, trust.ErrName},
		{"command expired", topics.KindCommand, func(p papers) []byte { return p.command(held+1, nil, -time.Minute, f.director) }, trust.ErrExpired},
		{"command by a stranger", topics.KindCommand, func(p papers) []byte { return p.command(held+1, nil, good, stranger) }, trust.ErrSignature},
		{"command that nobody knows", topics.KindCommand, func(p papers) []byte {
			return forge(p.t, p.command(held+1, nil, good, f.director), f.director, in("action", "format"))
		}, trust.ErrMalformed},
		{"manifest in place of a command", topics.KindCommand, func(p papers) []byte { return p.manifest(held+1, nil, good, f.director) }, trust.ErrKind},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := f.hostileBroker(t, nil)
			p := papers{t, f, "cam-" + topicsafe(c.name), "of-" + topicsafe(c.name)}
			d := f.stolenBroker(t, p.device, b, "")
			topic := topics.Name{Kind: c.kind, ID: p.device}
			if c.kind == topics.KindManifest {
				topic.ID = p.cohort
			}
			b.retain(topics.DeviceAssignment(p.device), p.assignment(held, nil, good, f.director))
			b.retain(topics.CohortManifest(p.cohort), p.manifest(held, nil, good, f.director))
			d.start("")
			d.checkedIn()

			b.message(topic.String(), c.raw(p))
			d.eventually("the exact error", func() error { return b.tells(p.device, topic.String(), c.want.Error()) })
			d.unharmed()
			if got := b.reports(p.device); len(got) != 0 {
				t.Errorf("it acted: %+v", got)
			}
			f.honestAgain(d, b, p.cohort, entry(image), image.SHA256)
		})
	}
}

// honestAgain takes the hostile broker away. The device finds the real one by
// itself, and what it missed there.
func (f *fleet) honestAgain(d *device, b *hostileBroker, cohort string, e topics.Entry, digest string) {
	d.t.Helper()
	f.manifest(cohort, e)
	f.assign(d.id, []string{cohort})
	b.Close()
	d.committed(e.Rollout, "1.1.0", digest)
}

// A command that was obeyed comes again, as it was: it is obeyed once.
func TestReplayedCommandIsObeyedOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.hostileBroker(t, nil)
	p := papers{t, f, "cam-1", "lobby"}
	d := f.stolenBroker(t, "cam-1", b, "")
	b.retain(topics.DeviceAssignment("cam-1"), p.assignment(1, nil, time.Hour, f.director))
	b.retain(topics.CohortManifest("lobby"), must[[]byte](t)(trust.SignManifest(topics.Manifest{
		Schema: topics.Schema, Kind: string(topics.KindManifest), TrustDomain: domain, Cohort: "lobby", Version: 1, Issued: time.Now(), Entries: []topics.Entry{},
	}, time.Now().Add(time.Hour), f.director)))
	d.start("")
	d.checkedIn()
	logs := func(c *topics.Command) { c.Action = topics.CommandLogs }
	first := p.command(1, logs, time.Hour, f.director)
	answers := func() int { return len(b.published(topics.DeviceLog("cam-1"))) }
	b.message(topics.DeviceCommand("cam-1"), first)
	d.eventually("the answer", func() error {
		if d.logged("command obeyed") == nil && answers() > 0 && len(must[journal.Record](t)(journal.Read(d.data())).Queue) == 0 {
			return nil
		}
		return errors.New("none yet")
	})
	once := answers()
	for range 20 {
		b.message(topics.DeviceCommand("cam-1"), first)
	}
	// Handled in order: what is told of the next one comes after all of them.
	b.message(topics.DeviceCommand("cam-1"), p.command(1, nil, time.Hour, f.director))
	d.eventually("the exact error", func() error { return b.tells("cam-1", trust.ErrVersionRollback.Error()) })
	if n := answers() - once; n != 1 {
		t.Errorf("%d logs after the first answer, want only that of the refusal", n)
	}
	if n := strings.Count(string(must[[]byte](t)(readLog(d))), "command obeyed"); n != 1 {
		t.Errorf("obeyed %d times", n)
	}
}

// The manifest that the device holds comes again and again, and rubbish in between:
// nothing is written for it, and the device stays what it is.
func TestManifestInALoopIsNotWrittenAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	b := f.hostileBroker(t, nil)
	p := papers{t, f, "cam-1", "lobby"}
	d := f.stolenBroker(t, "cam-1", b, "heartbeat: 1h\n")
	held := p.manifest(1, nil, time.Hour, f.director)
	b.retain(topics.DeviceAssignment("cam-1"), p.assignment(1, nil, time.Hour, f.director))
	b.retain(topics.CohortManifest("lobby"), held)
	d.start("")
	d.checkedIn()
	d.rests()
	before := must[[]byte](t)(os.ReadFile(d.path("data/trust")))
	for range 3000 {
		b.message(topics.CohortManifest("lobby"), held)
		b.message(topics.CohortManifest("garden"), held)
	}
	// Handled in order: when the command is obeyed, all of them were.
	b.message(topics.DeviceCommand("cam-1"), []byte("rubbish"))
	d.eventually("the end of the loop", func() error { return b.tells("cam-1", trust.ErrMalformed.Error()) })
	if after := must[[]byte](t)(os.ReadFile(d.path("data/trust"))); !bytes.Equal(before, after) {
		t.Error("what is trusted was written again")
	}
	d.unharmed()
	f.honestAgain(d, b, "lobby", entry(image), image.SHA256)
}

package topics

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func mustRefuse(t *testing.T, want error, f func() error) {
	t.Helper()
	if err := f(); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestParseReadsWhatItWrites(t *testing.T) {
	for _, kind := range append([]Kind{KindManifest}, DeviceKinds...) {
		name := Name{kind, "cam-0001"}
		got, err := Parse(name.String())
		if err != nil || got != name {
			t.Errorf("Parse(%q) = %v, %v", name, got, err)
		}
	}
}

func TestParseRefusesEverythingElse(t *testing.T) {
	for _, topic := range []string{
		"", "fleet/v1", "fleet/v1/", "fleet/v2/devices/a/status", "/fleet/v1/devices/a/status",
		"fleet/v1/devices/a/status/", "fleet/v1/devices//status", "fleet/v1/devices/a/manifest",
		"fleet/v1/cohorts/a/status", "fleet/v1/devices/a/reboot", "fleet/v1/devices/+/status",
		"fleet/v1/devices/-a/status", "fleet/v1/devices/a b/status", "fleet/v1/devices/a\x00/status",
		"fleet/v1/devices/" + strings.Repeat("a", 64) + "/status", "FLEET/v1/devices/a/status",
	} {
		mustRefuse(t, ErrTopic, func() error { _, err := Parse(topic); return err })
	}
}

// TestAccessMatrix walks every kind of principal over every topic and action.
func TestAccessMatrix(t *testing.T) {
	mine := func(cohort string) bool { return cohort == "mine" }
	own := Principal{PrincipalDevice, "dev"}
	fleetd := Principal{PrincipalService, ServiceFleetd}
	type row struct{ ownPub, ownSub, fleetdPub, fleetdSub bool }
	want := map[string]row{
		CohortManifest("mine"):    {ownSub: true, fleetdPub: true, fleetdSub: true},
		CohortManifest("other"):   {fleetdPub: true, fleetdSub: true},
		DeviceAssignment("dev"):   {ownSub: true, fleetdPub: true, fleetdSub: true},
		DeviceCommand("dev"):      {ownSub: true, fleetdPub: true, fleetdSub: true},
		DeviceStatus("dev"):       {ownPub: true, fleetdSub: true},
		DeviceHeartbeat("dev"):    {ownPub: true, fleetdSub: true},
		DeviceLog("dev"):          {ownPub: true, fleetdSub: true},
		DevicePresence("dev"):     {fleetdSub: true},
		DeviceRefusal("dev"):      {fleetdSub: true},
		DeviceAssignment("other"): {fleetdPub: true, fleetdSub: true},
		DeviceCommand("other"):    {fleetdPub: true, fleetdSub: true},
		DeviceStatus("other"):     {fleetdSub: true},
		DeviceHeartbeat("other"):  {fleetdSub: true},
		DeviceLog("other"):        {fleetdSub: true},
		DevicePresence("other"):   {fleetdSub: true},
		DeviceRefusal("other"):    {fleetdSub: true},
		// Filters: a device may not use one; fleetd may below the prefix.
		AllManifests:                            {fleetdSub: true},
		Uplink:                                  {fleetdSub: true},
		Prefix + "/#":                           {fleetdSub: true},
		Share("registry", Uplink):               {fleetdSub: true},
		Share("registry", DeviceCommand("dev")): {fleetdSub: true},
		"#":                                     {},
		"+/v1/devices/dev/status":               {},
		"fleet/+/devices/dev/status":            {},
		"$SYS/broker":                           {},
		Share("registry", "#"):                  {},
		Share("", Uplink):                       {},
		"elsewhere":                             {},
		"":                                      {},
	}
	for topic, w := range want {
		for _, c := range []struct {
			who    Principal
			action Action
			want   bool
		}{{own, Publish, w.ownPub}, {own, Subscribe, w.ownSub}, {fleetd, Publish, w.fleetdPub}, {fleetd, Subscribe, w.fleetdSub},
			{Principal{PrincipalOperator, "alice"}, Publish, false}, {Principal{PrincipalOperator, "alice"}, Subscribe, false},
			{Principal{PrincipalService, "broker"}, Publish, false}, {Principal{PrincipalService, "broker"}, Subscribe, false},
			{Principal{}, Subscribe, false},
			// A device that is called like the service is still a device.
			{Principal{PrincipalDevice, ServiceFleetd}, Publish, false},
		} {
			err := Decide(c.who, c.action, topic, mine)
			if (err == nil) != c.want {
				t.Errorf("%s %q may %s %q: got %v, want allowed=%v", c.who.Kind, c.who.Name, c.action, topic, err, c.want)
			}
			if err != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("%v is not ErrRefused", err)
			}
		}
	}
	if Decide(own, Subscribe, CohortManifest("mine"), nil) == nil {
		t.Error("without an assignment a device must not read any manifest")
	}
}

func TestMatchFollowsTheSpecification(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a/c", false}, {"a/+", "a/b", true}, {"a/+", "a/b/c", false}, {"a/+", "a", false},
		{"a/#", "a", true}, {"a/#", "a/b/c", true}, {"#", "a", true}, {"+", "a", true}, {"+", "/a", false}, {"+/+", "/a", true},
		{"a/+/#", "a/b", true}, {"+/#", "zz", true}, {"#", "$SYS/x", false}, {"+/x", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true},
		{"a/", "a", false}, {"a//b", "a//b", true}, {"a/+/b", "a//b", true},
	} {
		if got := Match(c.filter, c.topic); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.filter, c.topic, got)
		}
	}
}

// TestBucketIsFixedForEver pins the formula: a change would reshuffle every
// fleet in the middle of its rollouts. Values from an independent computation:
// python3 -c 'import hashlib; print(int.from_bytes(hashlib.sha256(b"groundswell/bucket/"+ID).digest()[:8],"big")%10**6)'
func TestBucketIsFixedForEver(t *testing.T) {
	for device, want := range bucketGoldens {
		if got := Bucket(device); got != want {
			t.Errorf("Bucket(%q) = %d, want %d", device, got, want)
		}
	}
}

func TestPositionIsNeverNegative(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bucket := rapid.Int64Range(0, Buckets-1).Draw(t, "bucket")
		offset := rapid.Int64Range(0, Buckets-1).Draw(t, "offset")
		p := Position(bucket, offset)
		if p < 0 || p >= Buckets || (p+offset)%Buckets != bucket {
			t.Fatalf("Position(%d, %d) = %d", bucket, offset, p)
		}
	})
}

func TestShareCountRoundsUpToOneDevice(t *testing.T) {
	for _, c := range []struct{ share, members, want int64 }{
		{1000, 40, 1}, {1000, 0, 0}, {1000, 1000, 1}, {1000, 1001, 2}, {Buckets, 40, 40}, {500_000, 3, 2}, {1, 10_000_000, 10},
	} {
		if got := ShareCount(c.share, c.members); got != c.want {
			t.Errorf("ShareCount(%d, %d) = %d, want %d", c.share, c.members, got, c.want)
		}
	}
}

// TestSpreadIsExact: within a wave the starts grow with the position, from
// opens_at up to, and never reaching, opens_at + spread; also for a spread of a
// year, whose product with a position does not fit 64 bits.
func TestSpreadIsExact(t *testing.T) {
	opens := time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, Buckets-2).Draw(t, "start")
		threshold := rapid.Int64Range(start+1, Buckets).Draw(t, "threshold")
		spread := rapid.Int64Range(0, 366*24*3600).Draw(t, "spread")
		wave := Wave{Start: start, Threshold: threshold, OpensAt: opens, SpreadSeconds: spread}
		p := rapid.Int64Range(start, threshold-1).Draw(t, "position")
		_, at, ok := WaveOf([]Wave{wave}, p)
		if !ok {
			t.Fatal("a position in the wave was not found")
		}
		into := at.Sub(opens)
		exact := float64(wave.Spread()) * float64(p-start) / float64(threshold-start)
		if diff := float64(into) - exact; diff > 1e6 || diff < -1e6 {
			t.Fatalf("starts after %v, want %v", into, time.Duration(exact))
		}
		if spread > 0 && into >= wave.Spread() {
			t.Fatalf("starts at %v, not before the end of %v", into, wave.Spread())
		}
		if _, _, ok := WaveOf([]Wave{wave}, threshold); ok {
			t.Fatal("the threshold itself is outside")
		}
	})
}

func TestVersionsAndConstraints(t *testing.T) {
	for _, v := range []string{"", "1.2", "v1.2.0", "1.2.0.0", "01.2.0", "latest", strings.Repeat("1", 65) + ".0.0"} {
		mustRefuse(t, ErrInvalid, func() error { return CheckVersion("version", v) })
	}
	mustRefuse(t, ErrInvalid, func() error { return CheckConstraint("from", "newer than 2") })
	for _, c := range []struct {
		v, from string
		want    bool
	}{{"1.9.9", "<2.0", true}, {"2.0.0", "<2.0", false}, {"2.0.0-rc.1", "<2.0.0", true}, {"1.0.0", "", true}, {"1.2.0", "=1.2.0", true}, {"1.2.0", ">=1.1.0 <1.2.0", false}} {
		if got, err := Satisfies(c.v, c.from); err != nil || got != c.want {
			t.Errorf("Satisfies(%q, %q) = %v, %v", c.v, c.from, got, err)
		}
	}
	if got, err := CompareVersions("1.10.0", "1.9.0"); err != nil || got != 1 {
		t.Errorf("1.10.0 against 1.9.0: %d, %v", got, err)
	}
}

// TestRefusalsNameTheField breaks one field of a good payload at a time.
func TestRefusalsNameTheField(t *testing.T) {
	manifest := func(change func(*Manifest)) func() error {
		return func() error {
			m := goodManifest()
			change(&m)
			return m.Validate()
		}
	}
	for field, f := range map[string]func() error{
		"kind":                          manifest(func(m *Manifest) { m.Kind = "assignment" }),
		"cohort":                        manifest(func(m *Manifest) { m.Cohort = "a/b" }),
		"images":                        manifest(func(m *Manifest) { m.Images = nil }),
		"issued":                        manifest(func(m *Manifest) { m.Issued = m.Issued.Add(1) }),
		"entries[0].from":               manifest(func(m *Manifest) { m.Entries[0].From = "new" }),
		"entries[0].models":             manifest(func(m *Manifest) { m.Entries[0].Models = nil }),
		"entries[0].offset":             manifest(func(m *Manifest) { m.Entries[0].Offset = Buckets }),
		"entries[0].waves[1].start":     manifest(func(m *Manifest) { m.Entries[0].Waves[1].Start = 5 }),
		"entries[0].waves[1].threshold": manifest(func(m *Manifest) { m.Entries[0].Waves[1].Threshold = Buckets + 1 }),
		"entries[0].windows[0].days[0]": manifest(func(m *Manifest) {
			m.Entries[0].Windows = []Window{{Days: []string{"montag"}, Start: "22:00", End: "05:00"}}
		}),
		"entries[0].windows[0].start": manifest(func(m *Manifest) { m.Entries[0].Windows = []Window{{Start: "24:00", End: "05:00"}} }),
		"entries[0].target.sha256":    manifest(func(m *Manifest) { m.Entries[0].Target.SHA256 = "00" }),
		"entries[0].target.length":    manifest(func(m *Manifest) { m.Entries[0].Target.Length = 0 }),
		"entries[1].rollout":          manifest(func(m *Manifest) { m.Entries = append(m.Entries, m.Entries[0]) }),
		"cohorts":                     func() error { return checkSlugs("cohorts", []string{"a", "a b"}, 0) },
		"time_zone":                   func() error { return CheckTimeZone("time_zone", "Europe/Atlantis") },
	} {
		err := f()
		var named *FieldError
		if !errors.As(err, &named) || !errors.Is(err, ErrInvalid) || !strings.HasPrefix(named.Field, field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
	m := goodManifest()
	if err := m.Validate(); err != nil {
		t.Errorf("the good one: %v", err)
	}
	mustRefuse(t, ErrTooLarge, func() error { _, err := DecodeStatus(make([]byte, MaxStatus+1)); return err })
	mustRefuse(t, ErrInvalid, func() error { _, err := DecodeStatus([]byte(`{"schema":"one"}`)); return err })
	mustRefuse(t, ErrInvalid, func() error { _, err := DecodeStatus([]byte(`{} {}`)); return err })
	raw, err := os.ReadFile("testdata/golden/heartbeat-1-interval.json")
	if err != nil {
		t.Fatal(err)
	}
	negative := strings.Replace(string(raw), `"interval_s":960`, `"interval_s":-1`, 1)
	var named *FieldError
	if _, err := DecodeHeartbeat([]byte(negative)); !errors.As(err, &named) || named.Field != "interval_s" {
		t.Errorf("an interval below zero: %v", err)
	}
}

func goodManifest() Manifest {
	at := time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)
	digest := strings.Repeat("a", 64)
	return Manifest{Schema: 1, Kind: "manifest", TrustDomain: "fleet.example", Cohort: "canary", Version: 1, Issued: at,
		Images: &SnapshotPin{Version: 1, Length: 10, SHA256: digest},
		Entries: []Entry{{Rollout: "r-1", Revision: 1, Kind: EntryUpdate, State: EntryRunning, Sequence: 1, Component: "system", Release: "camera", Version: "1.1.0",
			Target: Target{Path: "camera/1.1.0", Length: 10, SHA256: digest}, Models: []string{"cam-a"},
			Waves: []Wave{{Index: 0, Start: 0, Threshold: 10, OpensAt: at}, {Index: 1, Start: 10, Threshold: Buckets, OpensAt: at}}}}}
}

// TestCommittedNeedsANewBoot: success means a verified boot, never "installed".
func TestCommittedNeedsANewBoot(t *testing.T) {
	s := Status{Schema: 1, Rollout: "r-1", Revision: 1, Cohort: "c", Component: "system", Release: "camera", Attempt: 1, State: StateCommitted,
		From: "1.0.0", Running: "1.1.0", Target: "1.1.0", BootID: "b2", PreviousBootID: "b1", Epoch: 1, Sequence: 1, Clock: ClockTrusted, At: time.Unix(1, 0)}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	same, none, other := s, s, s
	same.PreviousBootID = "b2"
	none.PreviousBootID = ""
	other.Running = "1.0.0"
	for i, bad := range []Status{same, none, other} {
		if bad.Validate() == nil {
			t.Errorf("case %d was accepted", i)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("fleet/v1/devices/cam-0001/status")
	f.Add("fleet/v1/cohorts/a/manifest")
	f.Fuzz(func(t *testing.T, topic string) {
		name, err := Parse(topic)
		if err == nil && (name.String() != topic || !ValidID(name.ID)) {
			t.Errorf("%q parsed as %v", topic, name)
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add("$share/registry/fleet/v1/devices/+/+", "fleet/v1/devices/a/status")
	f.Add("a/#", "a")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		group, inner, shared, err := ParseShare(filter)
		if err == nil && shared && (Share(group, inner) != filter || CheckFilter(inner) != nil) {
			t.Errorf("%q parsed as %q, %q", filter, group, inner)
		}
		if CheckFilter(filter) == nil {
			Match(filter, topic)
		}
	})
}

func FuzzDecode(f *testing.F) {
	kinds := append([]Kind{KindManifest}, DeviceKinds...)
	for i := range kinds {
		f.Add(i, []byte(fmt.Sprintf(`{"schema":1,"kind":%q}`, kinds[i])))
	}
	goldens, err := filepath.Glob("testdata/golden/*.json")
	if err != nil || len(goldens) < len(kinds) {
		f.Fatalf("%d goldens, %v", len(goldens), err)
	}
	for _, file := range goldens {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		kind, _, _ := strings.Cut(filepath.Base(file), "-")
		f.Add(slices.Index(kinds, Kind(strings.TrimSuffix(kind, ".json"))), raw)
	}
	f.Fuzz(func(t *testing.T, i int, raw []byte) {
		if i < 0 || i >= len(kinds) {
			return
		}
		payload, err := decodeKind(kinds[i], raw)
		if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrSchema) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: an error without a sentinel: %v", kinds[i], err)
		}
		if err == nil && payload.(interface{ Validate() error }).Validate() != nil {
			t.Errorf("%s: decoded, but not valid", kinds[i])
		}
	})
}

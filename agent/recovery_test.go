package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/clock"
	"groundswell/agent/journal"
	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// renewals stands in for fleetd's renewal listener, with the real TLS and issuing.
func (f *fleet) renewals(t *testing.T, grace time.Duration) string {
	t.Helper()
	credential := must[certs.Credential](t)(f.ca.IssueService(certs.ServiceFleetd, nil, time.Hour))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next, err := f.ca.Renew(r.TLS.PeerCertificates[0], time.Now(), 24*time.Hour)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(certs.EncodeCertificate(next))
	}))
	s.TLS = must2(certs.RenewalTLS(certs.TLSOptions{Credential: credential, Authority: f.ca.Authority()}, grace))(t)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// expired gives the device a certificate that was valid long ago.
func (d *device) expired(from time.Time, lifetime time.Duration) {
	d.t.Helper()
	key := must2(certs.GenerateKey())(d.t)
	cert := must[*x509.Certificate](d.t)(d.fleet.ca.Issue(certs.Request{
		Identity:  certs.Identity{TrustDomain: domain, Kind: topics.PrincipalDevice, Name: d.id, Model: model, Hardware: hardware},
		PublicKey: key.Public(), Now: from, Lifetime: lifetime,
	}))
	c := must[certs.Credential](d.t)(certs.NewCredential(cert, key))
	if err := c.Save(d.path("device.crt"), d.path("device.key")); err != nil {
		d.t.Fatal(err)
	}
}

// in1970 has the device's clock stand where it does without a battery.
func (d *device) in1970() {
	d.t.Helper()
	if err := os.WriteFile(d.path("clock"), []byte((-time.Since(time.Unix(0, 0))).String()), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// rotateFive replaces the fleet's roots five times: each has new root keys, the third
// another release key, the fourth another director key. All but the last have
// expired. It returns what a device was provisioned with at the beginning.
func (f *fleet) rotateFive(t *testing.T, began time.Time) (image, director []byte) {
	t.Helper()
	specs := func(expires time.Time) (trust.RootSpec, trust.RootSpec) {
		return trust.RootSpec{TrustDomain: domain, Repository: trust.Image, Expires: expires, Root: one(f.root), Targets: one(f.release), Snapshot: one(f.snapshot), Timestamp: one(f.timestamp)},
			trust.RootSpec{TrustDomain: domain, Repository: trust.Director, Expires: expires, Root: one(f.root), Targets: one(f.director)}
	}
	i, d := specs(began.AddDate(0, 4, 0))
	image = must[[]byte](t)(trust.InitRoot(i, f.root))
	director = must[[]byte](t)(trust.InitRoot(d, f.root))
	f.imageRoot, f.directorRoot = image, director
	for n := 2; n <= 6; n++ {
		before := f.root
		f.root = must[*trust.Key](t)(trust.GenerateKey())
		switch n {
		case 3:
			f.release = must[*trust.Key](t)(trust.GenerateKey())
		case 4:
			f.director = must[*trust.Key](t)(trust.GenerateKey())
		}
		expires := began.AddDate(0, 4*n, 0)
		if n == 6 {
			expires = time.Now().AddDate(0, 4, 0)
		}
		i, d := specs(expires)
		f.imageRoot = must[[]byte](t)(trust.RotateRoot(f.imageRoot, i, before, f.root))
		f.directorRoot = must[[]byte](t)(trust.RotateRoot(f.directorRoot, d, before, f.root))
		f.files[fmt.Sprintf("/repository/image/%d.root.json", n)] = f.imageRoot
		f.files[fmt.Sprintf("/repository/director/%d.root.json", n)] = f.directorRoot
	}
	return image, director
}

// A device lay in a drawer for two years: its certificate, its manifest, its list of
// releases and its roots have expired, the roots were replaced five times, and its
// clock says 1970. It is switched on, and nobody does anything else.
func TestDrawerOfTwoYears(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	began := time.Now().AddDate(-2, 0, 0).Truncate(time.Second)
	oldDirector, oldRelease := f.director, f.release
	image, director := f.rotateFive(t, began)

	d := f.newDevice(t, "cam-1", "renewal: {servers: [\""+f.renewals(t, 3*365*24*time.Hour)+"\"]}\n")
	d.replace(f.path("image-root.json"), d.write("image-root.json", image))
	d.replace(f.path("director-root.json"), d.write("director-root.json", director))
	d.expired(began.AddDate(0, -1, 0), 365*24*time.Hour)
	d.in1970()
	d.rememberTwoYears(began, image, director, oldDirector, oldRelease, f.snapshot)
	before := must[journal.Record](t)(journal.Read(d.data()))

	release := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	e := entry(release)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	if s := d.ends(e.Rollout, topics.StateCommitted); s.Clock != topics.ClockFloor || s.Epoch < before.Epoch {
		t.Errorf("report: %+v, the epoch before was %d", s, before.Epoch)
	}
	d.runs("1.1.0", release.SHA256)
	for _, said := range []string{"certificate renewed", "root accepted", "check-in complete"} {
		if err := d.logged(said); err != nil {
			t.Error(err)
		}
	}
	raw, _, err := journal.NewFile(d.path("data/trust")).Load()
	if err != nil {
		t.Fatal(err)
	}
	if state := must[trust.State](t)(trust.ParseState(raw)); state.RootVersion(trust.Image) != 6 || state.RootVersion(trust.Director) != 6 {
		t.Errorf("roots %d and %d", state.RootVersion(trust.Image), state.RootVersion(trust.Director))
	}
}

func (d *device) write(name string, data []byte) string {
	d.t.Helper()
	if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return d.path(name)
}

// rememberTwoYears writes what the device had verified before it was put away.
func (d *device) rememberTwoYears(began time.Time, image, director []byte, directorKey, releaseKey, snapshotKey *trust.Key) {
	d.t.Helper()
	t := d.t
	s := must[trust.State](t)(trust.NewState(domain, image, director))
	release := trust.Release{Schema: 1, Component: "system", Name: "camera", Version: "0.9.0", Models: []string{model}}
	targets := must[[]byte](t)(trust.SignTargets(trust.TargetsSpec{Root: image, Now: began, Expires: began.AddDate(0, 1, 0),
		Add: []trust.ReleaseImage{{Path: trust.ReleasePath(release), Length: 1, SHA256: strings.Repeat("0", 64), Release: release}}}, releaseKey))
	snapshot, pin, err := trust.MakeSnapshot(targets, 7, began.AddDate(0, 1, 0), snapshotKey)
	if err != nil {
		t.Fatal(err)
	}
	m := must[[]byte](t)(trust.SignManifest(topics.Manifest{Schema: 1, Kind: "manifest", TrustDomain: domain, Cohort: "lobby", Version: began.Unix(),
		Issued: began, Entries: []topics.Entry{}, Images: &pin}, began.AddDate(0, 0, 14), directorKey))
	a := must[[]byte](t)(trust.SignAssignment(topics.Assignment{Schema: 1, Kind: "assignment", TrustDomain: domain, Device: d.id, Version: began.Unix(),
		Issued: began, Cohorts: []string{"lobby"}}, began.AddDate(0, 0, 14), directorKey))
	for _, step := range []func() error{
		func() (err error) { s, _, err = s.Assignment(a, d.id, began); return err },
		func() (err error) { s, _, err = s.Manifest(m, "lobby", began); return err },
		func() (err error) { s, _, err = s.Snapshot(snapshot, pin, began); return err },
		func() (err error) { s, _, err = s.Targets(targets, began); return err },
		func() error { return os.MkdirAll(d.data(), 0o700) },
		func() error { return journal.NewFile(d.path("data/trust")).Save(must[[]byte](t)(json.Marshal(s))) },
		func() error {
			_, err := journal.Open(d.data(), began, slog.New(slog.DiscardHandler))
			return err
		},
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// Without anywhere to renew it, an expired certificate is the one thing that needs
// hands: the component runs, and the agent says what is wrong.
func TestExpiredCertificateWithoutRenewalIsSaid(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	d.expired(time.Now().AddDate(-2, 0, 0), 365*24*time.Hour)
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.eventually("the reason", func() error { return d.logged("cannot connect to broker", "expired certificate") })
	d.component()
	// The hands: another certificate is put in place, and nothing is started anew.
	own := must[certs.Credential](t)(f.ca.IssueDevice("cam-1", model, hardware, time.Hour))
	if err := own.Save(d.path("device.crt"), d.path("device.key")); err != nil {
		t.Fatal(err)
	}
	d.checkedIn()
}

// Beyond the grace the server refuses, and the device says so, with growing pauses.
func TestCertificateThatExpiredTooLongAgoIsNotRenewed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "renewal: {servers: [\""+f.renewals(t, 30*24*time.Hour)+"\"]}\n")
	d.expired(time.Now().AddDate(-2, 0, 0), 365*24*time.Hour)
	before := must[[]byte](t)(os.ReadFile(d.path("device.crt")))
	d.start("")
	d.eventually("the refusal", func() error { return d.logged("certificate not renewed", "it has expired", "remote error") })
	d.component()
	if after := must[[]byte](t)(os.ReadFile(d.path("device.crt"))); string(after) != string(before) {
		t.Error("the certificate is another")
	}
}

// By the device's clock the certificate is good, but the clock is behind: that
// nobody answers makes it ask.
func TestCertificateIsRenewedThoughTheClockIsBehind(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "renewal: {after: 500ms, servers: [\""+f.renewals(t, time.Hour)+"\"]}\n")
	// It began when the agent was built, which is all that the clock knows, and expired
	// a minute ago.
	d.expired(clock.Built(), time.Since(clock.Built())-time.Minute)
	d.in1970()
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.checkedIn()
	if err := d.logged("certificate renewed"); err != nil {
		t.Error(err)
	}
}

// Somebody has put another version on it by hand, while it was off.
func TestFlashedByHand(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	older := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	newer := f.publishRelease("1.3.0", agenttest.Firmware(t, "1.3.0", "healthy").Bytes)
	for _, at := range []string{"", "downloading", "verified", "staged", "armed"} {
		t.Run("killed at "+at, func(t *testing.T) {
			t.Parallel()
			id := "cam-" + at + "0"
			cohort := "of-" + id
			d := f.newDevice(t, id, "")
			e := entry(older)
			f.assign(id, []string{cohort})
			if at == "" {
				f.manifest(cohort)
				d.start("")
				d.checkedIn()
				d.process.Kill()
				f.manifest(cohort, e)
			} else {
				f.manifest(cohort, e)
				d.start(at)
				d.awaitKill()
			}
			if err := os.RemoveAll(d.path("data/slots")); err != nil {
				t.Fatal(err)
			}
			config := string(must[[]byte](t)(os.ReadFile(d.config)))
			_, initial, _ := strings.Cut(config, "initial: ")
			initial, _, _ = strings.Cut(initial, "\n")
			d.replace(initial, "{artifact: "+agenttest.Firmware(t, "1.2.0", "healthy").Path+", version: 1.2.0}")
			d.start("")
			d.eventually("what runs to be told", d.last(func(h topics.Heartbeat) error {
				if h.Versions["system"] != "1.2.0" {
					return fmt.Errorf("%+v", h)
				}
				return nil
			}))
			// What it was at is older than what runs, and not installed any more.
			d.eventually("the word that it does not go on", func() error {
				all := f.statuses(id)
				if len(all) > 0 && (all[len(all)-1].Reason == "downgrade" || all[len(all)-1].State.Terminal() && all[len(all)-1].State != topics.StateCommitted) {
					return nil
				}
				return fmt.Errorf("%+v", all)
			})
			d.rests()
			d.runs("1.2.0", "")
			next := entry(newer)
			f.manifest(cohort, next)
			if s := d.ends(next.Rollout, topics.StateCommitted); s.From != "1.2.0" {
				t.Errorf("report: %+v", s)
			}
		})
	}
}

// All that the device has written is gone, and so is its clock.
func TestFactoryReset(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	first := d.ends(e.Rollout, topics.StateCommitted)
	d.process.Kill()
	if err := os.RemoveAll(d.data()); err != nil {
		t.Fatal(err)
	}
	d.in1970()
	d.start("")
	// What was signed for it last is older than its first epoch, and by its clock it is
	// no later than that. fleetd sees that it counts from behind, and signs anew.
	d.eventually("a sign of life", func() error { return d.logged("check-in complete") })
	f.assign("cam-1", []string{"lobby"}, func(a *topics.Assignment) { a.Issued = time.Now().Add(2 * time.Minute) })
	d.eventually("a later epoch", func() error {
		r, err := journal.Read(d.data())
		if err == nil && r.Epoch <= first.Epoch {
			err = fmt.Errorf("epoch %d after %d", r.Epoch, first.Epoch)
		}
		return err
	})
	next := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "healthy").Bytes)
	newer := entry(next)
	f.manifest("lobby", newer)
	if s := d.ends(newer.Rollout, topics.StateCommitted); s.Epoch <= first.Epoch {
		t.Errorf("report %+v, the first epoch was %d", s, first.Epoch)
	}
	d.runs("1.2.0", next.SHA256)
}

// What was downloaded and placed is damaged before it is booted: nothing of it runs,
// that attempt has failed, and the next one brings it anew.
func TestSlotIsNotWhatTheJournalSays(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	for name, damage := range map[string]func(path string) error{
		"a byte is another": func(path string) error {
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = file.WriteAt([]byte("X"), 1000)
			return errors.Join(err, file.Close())
		},
		"it is cut":  func(path string) error { return os.Truncate(path, 1000) },
		"it is gone": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := "cam-" + topicsafe(name)
			d := f.newDevice(t, id, "")
			e := entry(image, func(e *topics.Entry) { e.Attempts = 2 })
			f.manifest("of-"+id, e)
			f.assign(id, []string{"of-" + id})
			d.start("staged")
			d.awaitKill()
			r := must[journal.Record](t)(journal.Read(d.data()))
			if err := damage(d.path("data/slots/" + r.Deployments["system"].Slot + "/artifact")); err != nil {
				t.Fatal(err)
			}
			d.start("")
			d.eventually("the update", func() error {
				for _, s := range f.statuses(id) {
					if s.State == topics.StateCommitted {
						return nil
					}
				}
				return fmt.Errorf("%+v", f.statuses(id))
			})
			d.rests()
			d.runs("1.1.0", image.SHA256)
		})
	}
}

// The device was replaced: the same id, another key and revision, nothing remembered. Its
// reports come after those of the old one.
func TestReplacedHardwareWithTheSameID(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	two := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	e := entry(one)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	before := d.ends(e.Rollout, topics.StateCommitted)
	d.process.Kill()

	next := f.newDevice(t, "cam-1", "")
	c := must[certs.Credential](t)(f.ca.IssueDevice("cam-1", model, "rev-c", time.Hour))
	if err := c.Save(next.path("device.crt"), next.path("device.key")); err != nil {
		t.Fatal(err)
	}
	newer := entry(two)
	f.manifest("lobby", newer)
	// Epochs are seconds, and nobody replaces a device within one.
	next.eventually("the next second", func() error {
		if now := time.Now().Unix(); now <= before.Epoch {
			return fmt.Errorf("%d", now)
		}
		return nil
	})
	next.start("")
	if s := next.ends(newer.Rollout, topics.StateCommitted); s.Epoch <= before.Epoch || s.From != "1.0.0" {
		t.Errorf("report: %+v, after epoch %d", s, before.Epoch)
	}
	next.runs("1.2.0", two.SHA256)
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

const (
	domain   = "fleet.test"
	model    = "cam-a"
	hardware = "rev-b"
)

// TestMain lets the tests run this very binary as an agent that kills itself
// at a named point.
func TestMain(m *testing.M) {
	if os.Getenv("AGENT_TEST_RUN") == "" {
		os.Exit(m.Run())
	}
	launch()
	onTrial := playAgent()
	if at := os.Getenv("AGENT_TEST_KILL_AT"); at != "" {
		faults = func(point string) {
			if point != at || !firstTime() {
				return
			}
			if onTrial && os.Getenv("AGENT_TEST_CUT") != "" { // the power: its launcher as well
				_ = syscall.Kill(os.Getppid(), syscall.SIGKILL)
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it takes a moment
		}
	}
	if root := os.Getenv("AGENT_TEST_ROOT"); root != "" {
		machineRoot, batteryEvery = root, 10*time.Millisecond
	}
	if path := os.Getenv("AGENT_TEST_CLOCK"); path != "" {
		machineClock = func() time.Time {
			ahead, err := os.ReadFile(path) // a duration; no file: the clock is right
			if errors.Is(err, os.ErrNotExist) {
				return time.Now()
			}
			d, err := time.ParseDuration(string(ahead))
			if err != nil {
				panic(err)
			}
			return time.Now().Add(d)
		}
	}
	daemon().Main()
}

func must[V any](t testing.TB) func(V, error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fleet is a real broker, and a stand-in for fleetd with real keys: it signs,
// publishes, serves artifacts and collects reports.
type fleet struct {
	t      testing.TB
	dir    string
	ca     *certs.CA
	broker *devstack.Process
	source *httptest.Server
	fleetd *mqttclient.Client

	root, release, snapshot, timestamp, director *trust.Key
	imageRoot, directorRoot                      []byte

	mu        sync.Mutex // guards what follows
	files     map[string][]byte
	requests  map[string]int
	intercept func(http.ResponseWriter, *http.Request) (handled bool)
	targets   []byte
	pin       topics.SnapshotPin
	versions  int64
	cohorts   map[string][]topics.Entry
	received  []mqttclient.Message
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), files: map[string][]byte{}, requests: map[string]int{}, cohorts: map[string][]topics.Entry{}, versions: time.Now().Unix()}
	now := time.Now()
	f.ca = must[*certs.CA](t)(certs.NewCA(domain, now.AddDate(-3, 0, 0), 4*365*24*time.Hour)) // older than any device that comes back
	f.write("ca.crt", f.ca.PEM())
	for _, k := range []**trust.Key{&f.root, &f.release, &f.snapshot, &f.timestamp, &f.director} {
		*k = must[*trust.Key](t)(trust.GenerateKey())
	}
	f.imageRoot = must[[]byte](t)(trust.InitRoot(trust.RootSpec{
		TrustDomain: domain, Repository: trust.Image, Expires: now.Add(time.Hour),
		Root: one(f.root), Targets: one(f.release), Snapshot: one(f.snapshot), Timestamp: one(f.timestamp),
	}, f.root))
	f.directorRoot = must[[]byte](t)(trust.InitRoot(f.directorSpec(), f.root))
	f.write("image-root.json", f.imageRoot)
	f.write("director-root.json", f.directorRoot)
	f.startSource()
	f.startBroker()
	f.connect()
	return f
}

func one(k *trust.Key) trust.RoleKeys {
	return trust.RoleKeys{Keys: []trust.PublicKey{k.Public()}, Threshold: 1}
}

func (f *fleet) directorSpec() trust.RootSpec {
	return trust.RootSpec{
		TrustDomain: domain, Repository: trust.Director, Expires: time.Now().Add(time.Hour),
		Root: one(f.root), Targets: one(f.director),
	}
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fleet) write(name string, data []byte) string {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return f.path(name)
}

func (f *fleet) startSource() {
	credential := must[certs.Credential](f.t)(f.ca.IssueService(certs.ServiceFleetd, nil, time.Hour))
	f.source = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.source.TLS = must2(certs.ServerTLS(certs.TLSOptions{Credential: credential, Authority: f.ca.Authority()}))(f.t)
	f.source.StartTLS()
	f.t.Cleanup(f.source.Close)
	f.t.Cleanup(f.source.CloseClientConnections)
}

func must2[V any](v V, err error) func(testing.TB) V {
	return func(t testing.TB) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (f *fleet) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	data, ok := f.files[r.URL.Path]
	f.requests[r.URL.Path]++
	intercept := f.intercept
	f.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/artifacts/"); ok {
		w.Header().Set("ETag", `"`+name+`"`)
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
}

func (f *fleet) startBroker() {
	f.t.Helper()
	path := must2(devstack.Program(context.Background(), "./broker"))(f.t)
	credential := must[certs.Credential](f.t)(f.ca.IssueService(certs.ServiceBroker, nil, time.Hour))
	if err := credential.Save(f.path("broker.crt"), f.path("broker.key")); err != nil {
		f.t.Fatal(err)
	}
	config := f.write("broker.yaml", fmt.Appendf(nil, `
trust_domain: %s
listen: 127.0.0.1:0
tls: {cert: %s, key: %s, ca: %s}
data_dir: %s
sync: 100ms
groups: [registry]
ops: {listen: "127.0.0.1:0"}
addresses_file: %s
`, domain, f.path("broker.crt"), f.path("broker.key"), f.path("ca.crt"), f.path("broker"), f.path("broker.json")))
	f.broker = devtest.Start(f.t, devstack.Spec{Name: "broker", Path: path, Args: []string{"--config", config}, AddressesFile: f.path("broker.json")})
}

// connect is fleetd's session: it collects what devices report.
func (f *fleet) connect() {
	f.t.Helper()
	credential := must[certs.Credential](f.t)(f.ca.IssueService(certs.ServiceFleetd, nil, time.Hour))
	tlsConfig := must2(certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: f.ca.Authority()}, certs.ServiceBroker))(f.t)
	up := make(chan error, 1)
	client := must[*mqttclient.Client](f.t)(mqttclient.New(mqttclient.Config{
		Servers: []string{"mqtts://" + f.broker.Addr("mqtt")}, TLS: tlsConfig, ClientID: certs.ServiceFleetd,
		OnUp: func(ctx context.Context, c *mqttclient.Client, _ bool) error {
			err := c.Subscribe(ctx, []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}})
			select {
			case up <- err:
			default:
			}
			return err
		},
		OnMessage: func(m mqttclient.Message) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.received = append(f.received, m)
		},
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	f.t.Cleanup(func() { cancel(); <-done })
	if err := <-up; err != nil {
		f.t.Fatal(err)
	}
	f.fleetd = client
}

// release signs an artifact as the release role does, and serves it.
func (f *fleet) publishRelease(version string, artifact []byte, change ...func(*trust.ReleaseImage)) trust.ReleaseImage {
	f.t.Helper()
	sum := sha256.Sum256(artifact)
	image := trust.ReleaseImage{
		Length: int64(len(artifact)), SHA256: hex.EncodeToString(sum[:]),
		Release: trust.Release{Schema: 1, Component: "system", Name: "camera", Version: version, Models: []string{model}},
	}
	for _, c := range change {
		c(&image)
	}
	image.Path = trust.ReleasePath(image.Release)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.targets = must[[]byte](f.t)(trust.SignTargets(trust.TargetsSpec{
		Root: f.imageRoot, Previous: f.targets, Add: []trust.ReleaseImage{image}, Expires: now.Add(time.Hour), Now: now,
	}, f.release))
	version64 := f.pin.Version + 1
	snapshot, pin, err := trust.MakeSnapshot(f.targets, version64, now.Add(time.Hour), f.snapshot)
	if err != nil {
		f.t.Fatal(err)
	}
	f.pin = pin
	f.files[fmt.Sprintf("/repository/image/%d.snapshot.json", version64)] = snapshot
	f.files[fmt.Sprintf("/repository/image/%d.targets.json", version64)] = f.targets
	f.files["/artifacts/"+image.SHA256] = artifact
	return image
}

var rollouts struct {
	sync.Mutex
	n int64
}

// entry is a rollout of an image to everybody, at once.
func entry(image trust.ReleaseImage, change ...func(*topics.Entry)) topics.Entry {
	rollouts.Lock()
	rollouts.n++
	n := rollouts.n
	rollouts.Unlock()
	e := topics.Entry{
		Rollout: "r-" + strconv.FormatInt(n, 10), Revision: 1, Kind: topics.EntryUpdate, State: topics.EntryRunning, Sequence: n,
		Component: image.Release.Component, Release: image.Release.Name, Version: image.Release.Version,
		Target: topics.Target{Path: image.Path, Length: image.Length, SHA256: image.SHA256},
		Models: image.Release.Models, Hardware: image.Release.Hardware, Windows: []topics.Window{}, Attempts: 1,
		Waves: []topics.Wave{{Threshold: topics.Buckets, OpensAt: time.Now().Add(-time.Minute).UTC().Truncate(time.Second)}},
	}
	for _, c := range change {
		c(&e)
	}
	return e
}

func (f *fleet) publish(topic string, raw []byte, version int64) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	p := mqttclient.Publication{Topic: topic, Payload: raw, QoS: 1, Retain: version > 0}
	if version > 0 {
		p.Properties = []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.FormatInt(version, 10)}}
	}
	if err := f.fleetd.Publish(ctx, p); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) next() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions++
	return f.versions
}

// manifest replaces a cohort's manifest.
func (f *fleet) manifest(cohort string, entries ...topics.Entry) {
	f.t.Helper()
	version := f.next()
	f.mu.Lock()
	pin, key := f.pin, f.director
	f.mu.Unlock()
	if entries == nil {
		entries = []topics.Entry{}
	}
	m := topics.Manifest{
		Schema: topics.Schema, Kind: string(topics.KindManifest), TrustDomain: domain, Cohort: cohort,
		Version: version, Issued: time.Now(), Entries: entries,
	}
	if pin.Version > 0 {
		m.Images = &pin
	}
	f.publish(topics.CohortManifest(cohort), must[[]byte](f.t)(trust.SignManifest(m, time.Now().Add(time.Hour), key)), version)
}

// assign tells a device its cohorts.
func (f *fleet) assign(device string, cohorts []string, change ...func(*topics.Assignment)) {
	f.t.Helper()
	a := topics.Assignment{
		Schema: topics.Schema, Kind: string(topics.KindAssignment), TrustDomain: domain, Device: device,
		Version: f.next(), Issued: time.Now(), Cohorts: cohorts,
	}
	for _, c := range change {
		c(&a)
	}
	f.publish(topics.DeviceAssignment(device), must[[]byte](f.t)(trust.SignAssignment(a, time.Now().Add(time.Hour), f.director)), a.Version)
}

func (f *fleet) command(device string, c topics.Command) {
	f.t.Helper()
	c.Schema, c.Kind, c.TrustDomain, c.Device = topics.Schema, string(topics.KindCommand), domain, device
	c.Version, c.Issued = f.next(), time.Now()
	f.publish(topics.DeviceCommand(device), must[[]byte](f.t)(trust.SignCommand(c, time.Now().Add(time.Hour), f.director)), 0)
}

// statuses are those that arrived of a device, in order, repetitions left out.
func (f *fleet) statuses(device string) []topics.Status {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []topics.Status
	seen := map[[2]int64]bool{}
	for _, m := range f.received {
		if m.Topic != topics.DeviceStatus(device) {
			continue
		}
		s := must[topics.Status](f.t)(topics.DecodeStatus(m.Payload))
		if key := [2]int64{s.Epoch, s.Sequence}; !seen[key] {
			seen[key] = true
			list = append(list, s)
		}
	}
	return list
}

func (f *fleet) heartbeats(device string) []topics.Heartbeat {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []topics.Heartbeat
	for _, m := range f.received {
		if m.Topic == topics.DeviceHeartbeat(device) {
			list = append(list, must[topics.Heartbeat](f.t)(topics.DecodeHeartbeat(m.Payload)))
		}
	}
	return list
}

func (f *fleet) logs(device string) []topics.Log {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []topics.Log
	for _, m := range f.received {
		if m.Topic == topics.DeviceLog(device) {
			list = append(list, must[topics.Log](f.t)(topics.DecodeLog(m.Payload)))
		}
	}
	return list
}

// device is an agent process with its directory.
type device struct {
	t       *testing.T
	fleet   *fleet
	id      string
	dir     string
	config  string // path
	text    string // of it, without that of the components
	root    string // of /proc and /sys, where it is not the machine's
	process *devstack.Process
}

// newDevice is a device that leaves the factory with 1.0.0. extra is added to
// its configuration.
func (f *fleet) newDevice(t *testing.T, id, extra string) *device {
	t.Helper()
	return f.newDeviceOf(t, id, initial(t)+`
health: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}
firmware: {tries: 3, backoff: {min: 10ms, max: 50ms}}
`+extra)
}

// initial is 1.0.0 of the firmware, as configuration.
func initial(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("initial: {artifact: %s, version: 1.0.0}", agenttest.Firmware(t, "1.0.0", "healthy").Path)
}

// newDeviceOf is a device of which the configuration of its components is components.
func (f *fleet) newDeviceOf(t *testing.T, id, components string) *device {
	t.Helper()
	d := &device{t: t, fleet: f, id: id, dir: t.TempDir()}
	credential := must[certs.Credential](t)(f.ca.IssueDevice(id, model, hardware, time.Hour))
	if err := credential.Save(d.path("device.crt"), d.path("device.key")); err != nil {
		t.Fatal(err)
	}
	d.config = d.path("agent.yaml")
	text := fmt.Sprintf(`
device: %s
trust_domain: %s
data_dir: %s
mqtt: {servers: ["mqtts://%s"]}
tls: {cert: %s, key: %s, ca: %s}
trust: {image_root: %s, director_root: %s}
sources: [%s]
backoff: {min: 10ms, max: 200ms}
retry: {min: 10ms, max: 50ms}
addresses_file: %s
`, id, domain, d.path("data"), f.broker.Addr("mqtt"), d.path("device.crt"), d.path("device.key"), f.path("ca.crt"),
		f.path("image-root.json"), f.path("director-root.json"), f.source.URL,
		d.path("addresses.json"))
	d.text = text
	d.configure(components)
	return d
}

// configure writes the configuration, with that of its components.
func (d *device) configure(components string) {
	d.t.Helper()
	if err := os.WriteFile(d.config, []byte(d.text+components), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) data() string { return d.path("data") }

// start runs the agent; with killAt it kills itself at that point.
func (d *device) start(killAt string) {
	d.t.Helper()
	d.process = devtest.Start(d.t, devstack.Spec{
		Name: "agent-" + d.id, Path: must2(os.Executable())(d.t), Args: []string{"--config", d.config, "--log-level", "debug"},
		Env:     []string{"AGENT_TEST_RUN=1", "AGENT_TEST_KILL_AT=" + killAt, "AGENT_TEST_CLOCK=" + d.path("clock"), "AGENT_TEST_ROOT=" + d.root},
		LogFile: d.path("agent.log"), AddressesFile: d.path("addresses.json"),
	})
}

// awaitKill waits until the agent has killed itself.
func (d *device) awaitKill() {
	d.t.Helper()
	select {
	case <-d.process.Done():
		if code := d.process.Wait(); code != -1 {
			d.t.Fatalf("it ended with code %d\n%s", code, d.process.LogTail(20))
		}
	case <-time.After(2 * time.Minute):
		d.t.Fatalf("it was not killed\n%s", d.process.LogTail(40))
	}
}

func (d *device) eventually(what string, cond func() error) {
	d.t.Helper()
	devtest.Eventually(d.t, 90*time.Second, d.id+": "+what, cond)
}

// checkedIn waits until the device has heard everything that it asked for.
func (d *device) checkedIn() {
	d.t.Helper()
	d.eventually("the check-in", func() error { return d.logged("check-in complete") })
}

// ends waits for the terminal report of a rollout's attempt and for rest, and
// checks that there was exactly one.
func (d *device) ends(rollout string, want topics.State) topics.Status {
	d.t.Helper()
	var last topics.Status
	d.eventually(string(want)+" of "+rollout, func() error {
		n := 0
		var states []string
		for _, s := range d.fleet.statuses(d.id) {
			states = append(states, string(s.State))
			if s.Rollout == rollout && s.State.Terminal() {
				last = s
				n++
			}
		}
		if n == 0 {
			return fmt.Errorf("states so far: %v", states)
		}
		return nil
	})
	d.rests()
	n := 0
	for _, s := range d.fleet.statuses(d.id) {
		if s.Rollout == rollout && s.State.Terminal() {
			n++
		}
	}
	if n != 1 || last.State != want {
		d.t.Fatalf("%s: %d terminal reports, the last is %s (%s %s), want one %s\n%s", d.id, n, last.State, last.Reason, last.Detail, want, d.process.LogTail(40))
	}
	return last
}

// rests waits until nothing is in progress and no report waits.
func (d *device) rests() {
	d.t.Helper()
	d.eventually("rest", d.resting)
}

func (d *device) resting() error {
	r, err := journal.Read(d.data())
	if err != nil {
		return err
	}
	for _, q := range r.Queue {
		if q.Kind != topics.KindHeartbeat {
			return fmt.Errorf("a %s waits", q.Kind)
		}
	}
	for _, dep := range r.Deployments {
		if dep.State != update.Idle {
			return fmt.Errorf("in state %s", dep.State)
		}
	}
	return nil
}

// runs checks what is in the active slot, byte by byte, and that nothing is on
// trial.
func (d *device) runs(version, digest string) {
	d.t.Helper()
	d.runsIn("slots", version, digest)
}

// runsIn is runs for the component whose slots are in that directory.
func (d *device) runsIn(slots, version, digest string) {
	d.t.Helper()
	dir := must[*slot.Dir](d.t)(slot.OpenDir(filepath.Join(d.data(), slots)))
	name, image, err := dir.Active()
	if err != nil {
		d.t.Fatal(err)
	}
	data := must[[]byte](d.t)(os.ReadFile(filepath.Join(d.data(), slots, name, "artifact")))
	sum := sha256.Sum256(data)
	if image.Version != version || digest != "" && hex.EncodeToString(sum[:]) != digest || image.SHA256 != hex.EncodeToString(sum[:]) {
		d.t.Fatalf("%s: slot %s holds %+v, with digest %x; want %s", d.id, name, image, sum[:8], version)
	}
	if _, err := os.Stat(filepath.Join(d.data(), slots, "trial.json")); !errors.Is(err, os.ErrNotExist) {
		d.t.Errorf("%s: a trial is left: %v", d.id, err)
	}
}

// replace changes a line of the device's configuration.
func (d *device) replace(old, new string) {
	d.t.Helper()
	data := string(must[[]byte](d.t)(os.ReadFile(d.config)))
	if !strings.Contains(data, old) {
		d.t.Fatalf("no %q in the configuration", old)
	}
	if err := os.WriteFile(d.config, []byte(strings.Replace(data, old, new, 1)), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// logged is nil when the agent has logged a line with all of the parts.
func (d *device) logged(parts ...string) error {
	data, err := os.ReadFile(d.path("agent.log"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			return nil
		}
	}
	return fmt.Errorf("no line with %q in the log", parts)
}

func (d *device) forgetLog() {
	d.t.Helper()
	if err := os.Truncate(d.path("agent.log"), 0); err != nil {
		d.t.Fatal(err)
	}
}

// staged is nil when a download has at least n bytes on disk.
func (d *device) staged(n int64) error {
	files, err := filepath.Glob(filepath.Join(d.data(), "slots", "*", "staging-*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && info.Size() >= n {
			return nil
		}
	}
	return fmt.Errorf("%v", files)
}

// A process that is stopped keeps its connections and answers nothing.
const (
	stopSignal = syscall.SIGSTOP
	goSignal   = syscall.SIGCONT
)

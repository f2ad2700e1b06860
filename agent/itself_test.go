package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/telemetry"
	"groundswell/certs/trust"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

const agentMark = "\nthis agent is "

// playAgent has this very binary be the agent that what stands behind it says: one of
// some version, that is no good in some way.
func playAgent() (onTrial bool) {
	onTrial = strings.Contains(os.Getenv("GROUNDSWELL_LAUNCH"), `"trial":true`)
	version, mode, ok := behind()
	if !ok {
		return onTrial
	}
	telemetry.Version = version
	switch mode {
	case "exits":
		fmt.Fprintln(os.Stderr, "this one is broken")
		os.Exit(3)
	case "hangs":
		select {}
	case "lost": // it looks for the broker where there is none
		for i, arg := range os.Args {
			if i > 0 && os.Args[i-1] == "--config" {
				data, err := os.ReadFile(arg)
				if err != nil {
					panic(err)
				}
				before, rest, _ := strings.Cut(string(data), "mqtts://")
				_, after, _ := strings.Cut(rest, "\"")
				os.Args[i] = arg + ".lost"
				if err := os.WriteFile(os.Args[i], []byte(before+"mqtts://127.0.0.1:1\""+after), 0o600); err != nil {
					panic(err)
				}
			}
		}
	}
	return onTrial
}

func behind() (version, mode string, ok bool) {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	file, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if _, err := file.Seek(-100, io.SeekEnd); err != nil {
		panic(err)
	}
	data, err := io.ReadAll(file)
	if err != nil {
		panic(err)
	}
	i := bytes.LastIndex(data, []byte(agentMark))
	if i < 0 {
		return "", "", false
	}
	version, mode, _ = strings.Cut(string(data[i+len(agentMark):]), " ")
	return version, mode, true
}

// firstTime reports whether the agent was not killed before, if that is to be once.
func firstTime() bool {
	path := os.Getenv("AGENT_TEST_KILLED")
	if path == "" {
		return true
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false
	}
	return file.Close() == nil
}

// agentVersion is an agent to download.
func agentVersion(t *testing.T, version, mode string) []byte {
	t.Helper()
	data := must[[]byte](t)(os.ReadFile(must2(os.Executable())(t)))
	return fmt.Append(data, agentMark, version, " ", mode)
}

func ofTheAgent(i *trust.ReleaseImage) { i.Release.Component, i.Release.Name = "agent", "agent" }

// selfish is configuration of an agent that replaces itself: soon, if all is well, which a slow
// machine has time for. hasty is one that does not wait long for what never comes.
const (
	selfish = "self: {alive: 30s, settle: 200ms, total: 30s}\n"
	hasty   = "self: {alive: 5s, settle: 200ms, total: 15s}\n"
)

// service is a device whose agent is started by its launcher, again and again.
type service struct {
	*device
	program string
	env     []string
}

func (s *service) on() {
	s.t.Helper()
	s.process = devtest.Start(s.t, devstack.Spec{
		Name: "agent-" + s.id, Path: s.program, Args: []string{"launch", filepath.Join(s.data(), "agent"), "--config", s.config, "--log-level", "debug"},
		Env: append([]string{"AGENT_TEST_RUN=1", "AGENT_TEST_CLOCK=" + s.path("clock")}, s.env...), LogFile: s.path("agent.log"),
	})
}

// keptUp wraps a condition: what has ended is started, as a service is.
func (s *service) keptUp(cond func() error) func() error {
	return func() error {
		select {
		case <-s.process.Done():
			s.on()
		default:
		}
		return cond()
	}
}

// ended waits for the one terminal report of a rollout.
func (s *service) ended(rollout string, want topics.State) topics.Status {
	s.t.Helper()
	killed := s.env != nil // it is going to be
	s.eventually("the end of "+rollout, s.keptUp(func() error {
		if _, err := os.Stat(s.path("killed")); killed && err != nil {
			return err
		}
		for _, status := range s.fleet.statuses(s.id) {
			if status.Rollout == rollout && status.State.Terminal() {
				return nil
			}
		}
		return errors.New("not yet")
	}))
	s.eventually("rest", s.keptUp(s.resting))
	return s.ends(rollout, want)
}

// tells waits until the device says that it runs that agent, and all is well.
func (s *service) tells(version string) {
	s.t.Helper()
	s.eventually("the word of agent "+version, s.keptUp(s.last(func(h topics.Heartbeat) error {
		if h.Versions["agent"] != version || h.Agent != version && h.Agent != telemetry.Version || h.Versions["system"] != "1.0.0" {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})))
	// It may have been killed after it said so.
	s.eventually("the firmware", s.keptUp(func() error {
		if pids := s.components(); len(pids) != 1 {
			return fmt.Errorf("processes %v", pids)
		}
		return nil
	}))
	s.component()
}

func (f *fleet) newService(t *testing.T, id, extra string) *service {
	t.Helper()
	return &service{device: f.newDevice(t, id, selfish+"heartbeat: 300ms\n"+extra), program: must2(os.Executable())(t)}
}

// The programs as they are shipped, in two versions.
func TestAgentIsReplacedByANewerOne(t *testing.T) {
	t.Parallel()
	build := func(version string) (path string) {
		t.Helper()
		path = filepath.Join(t.TempDir(), "agent-"+version)
		err := devstack.GoBuild(t.Context(), must2(devstack.Root())(t), path,
			append([]string{"-ldflags", "-s -w -X groundswell/agent/telemetry.Version=" + version}, devstack.AgentFlags...), "./agent")
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	f := newFleet(t)
	s := f.newService(t, "cam-1", "")
	s.program = build("1.0.0")
	image := f.publishRelease("1.1.0", must[[]byte](t)(os.ReadFile(build("1.1.0"))), ofTheAgent)
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	s.on()
	s.tells("1.0.0")
	e := entry(image)
	f.manifest("lobby", e)
	got := s.ended(e.Rollout, topics.StateCommitted)
	if got.From != "1.0.0" || got.Running != "1.1.0" || got.BootID == got.PreviousBootID || got.Component != "agent" {
		t.Errorf("reported %+v", got)
	}
	s.runsIn("agent", "1.1.0", image.SHA256)
	s.tells("1.1.0")
	// What it is for was started once more, as by any restart.
	log := string(must[[]byte](t)(os.ReadFile(s.path("agent.log"))))
	if n := strings.Count(log, "component launched"); n != 2 {
		t.Errorf("the firmware was launched %d times", n)
	}
	// From the next start on it is the one process that the service is.
	if err := s.process.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	s.on()
	s.tells("1.1.0")
	exe := must[string](t)(os.Readlink(fmt.Sprintf("/proc/%d/exe", s.process.PID())))
	if want := filepath.Join(s.data(), "agent", "b", "artifact"); exe != want {
		t.Errorf("the service is %s", exe)
	}
	// A lower one is not taken.
	old := entry(f.publishRelease("1.0.5", []byte("never run"), ofTheAgent))
	f.manifest("lobby", old)
	s.eventually("the word that it is a downgrade", func() error {
		all := f.statuses("cam-1")
		if last := all[len(all)-1]; last.Rollout != old.Rollout || last.State != topics.StateWaiting || last.Reason != "downgrade" {
			return fmt.Errorf("%+v", last)
		}
		return nil
	})
	s.runsIn("agent", "1.1.0", image.SHA256)
}

// Whatever is wrong with the new one, the old one is there again and says so.
func TestAgentThatIsNoGoodIsReplacedByTheOldOne(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for mode, reason := range map[string]string{"exits": "boot-attempts", "hangs": "boot-attempts", "lost": "health-broker"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := f.newService(t, mode, "")
			if mode != "exits" { // which it does by itself
				s.replace(selfish, hasty)
			}
			image := f.publishRelease("2.0.0-"+mode, agentVersion(t, "2.0.0-"+mode, mode), ofTheAgent)
			e := entry(image)
			f.manifest(mode, e)
			f.assign(mode, []string{mode})
			s.on()
			got := s.ended(e.Rollout, topics.StateRolledBack)
			if got.Reason != reason || got.Running != telemetry.Version || got.Attempt != 1 {
				t.Errorf("reported %+v", got)
			}
			s.tells(telemetry.Version)
			exe := must[string](t)(os.Readlink(fmt.Sprintf("/proc/%d/exe", s.process.PID())))
			if exe != s.program {
				t.Errorf("the service is %s", exe)
			}
			if mode == "exits" {
				s.eventually("what it has printed", func() error { // the broker has it, and passes it on
					logs := f.logs(mode)
					if !slices.ContainsFunc(logs, func(l topics.Log) bool { return strings.Contains(l.Text, "this one is broken") }) {
						return fmt.Errorf("%+v", logs)
					}
					return nil
				})
			}
			if err := s.process.Stop(30 * time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}

// Killed at any point, alone or with its launcher, the device ends with an agent that was
// verified, and one report.
func TestAgentKilledWhileItIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good := f.publishRelease("2.0.0", agentVersion(t, "2.0.0", "well"), ofTheAgent)
	bad := f.publishRelease("2.1.0", agentVersion(t, "2.1.0", "lost"), ofTheAgent)
	for _, c := range []struct {
		name    string
		entry   topics.Entry
		points  []string
		outcome topics.State
		version string
	}{
		{"good", entry(good), []string{"downloading", "verified", "staged", "trying", "launching", "committed", "confirmed", "closed"}, topics.StateCommitted, "2.0.0"},
		{"lost", entry(bad, func(e *topics.Entry) { e.HealthTimeoutSeconds = 3 }), []string{"rolled_back", "fallen-back", "closed"}, topics.StateRolledBack, telemetry.Version},
	} {
		f.manifest(c.name, c.entry)
		for _, point := range c.points {
			for _, how := range []string{"", "cut"} {
				t.Run(strings.TrimSpace(c.name+" at "+point+" "+how), func(t *testing.T) {
					t.Parallel()
					id := strings.ReplaceAll(strings.Trim(c.name+"-"+point+"-"+how, "-"), "_", "-")
					s := f.newService(t, id, "")
					s.env = []string{"AGENT_TEST_KILL_AT=agent " + point, "AGENT_TEST_CUT=" + how, "AGENT_TEST_KILLED=" + s.path("killed")}
					f.assign(id, []string{c.name})
					s.on()
					if got := s.ended(c.entry.Rollout, c.outcome); got.Running != c.version || got.Attempt != 1 {
						t.Errorf("reported %+v", got)
					}
					s.tells(c.version)
					if _, err := os.Stat(s.path("killed")); err != nil {
						t.Errorf("premise: %v", err)
					}
					if err := s.process.Stop(30 * time.Second); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// What a new agent does to others would be on trial as well.
func TestNothingElseBeginsWhileTheAgentIsOnTrial(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := f.newService(t, "cam-1", "")
	first := entry(f.publishRelease("2.0.0", agentVersion(t, "2.0.0", "well"), ofTheAgent), func(e *topics.Entry) { e.SettleSeconds = 6 })
	second := entry(f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes))
	f.manifest("lobby", first)
	f.assign("cam-1", []string{"lobby"})
	s.on()
	s.eventually("the trial", func() error {
		for _, status := range f.statuses("cam-1") {
			if status.State == topics.StateTrying {
				return nil
			}
		}
		return errors.New("not yet")
	})
	f.manifest("lobby", first, second)
	s.ended(second.Rollout, topics.StateCommitted)
	var committed, begun int64
	for _, status := range f.statuses("cam-1") {
		switch {
		case status.Rollout == first.Rollout && status.State == topics.StateCommitted:
			committed = status.Sequence
		case status.Rollout == second.Rollout && begun == 0:
			begun = status.Sequence
		}
	}
	if committed == 0 || begun < committed {
		t.Errorf("the agent was committed by report %d, the other component begun by %d", committed, begun)
	}
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

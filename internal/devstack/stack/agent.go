package stack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"groundswell/internal/devstack"
)

// AgentOptions say which device to start.
type AgentOptions struct {
	ID, Model, Hardware string
	// Firmware is the program that the device leaves the factory with, Version
	// its version.
	Firmware, Version string
	// Region and TimeZone are for whoever registers the device; the agent is not
	// told.
	Region, TimeZone string
	// Battery makes it connect every PollSeconds instead of staying connected.
	Battery     bool
	PollSeconds int
	// Config may change the configuration before it is written.
	Config func(Config)
}

// Agent is a device: an agent process with its own directory.
type Agent struct {
	ID      string
	Dir     string
	Battery bool
	Process *devstack.Process
}

// StartAgent issues the device's certificate and starts its agent.
func (s *Stack) StartAgent(ctx context.Context, o AgentOptions) (*Agent, error) {
	a := &Agent{ID: o.ID, Dir: s.path("agents", o.ID), Battery: o.Battery}
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return nil, err
	}
	err := s.MakeDevice(o, a.Dir, a.Dir, "")
	if err != nil {
		return nil, err
	}
	a.Process, err = devstack.Start(ctx, devstack.Spec{
		Name: "agent " + o.ID, Path: s.Bins.Agent, Args: []string{"--config", a.path(agentConfig)}, Dir: a.Dir,
		LogFile: a.path("agent.log"), AddressesFile: a.path(agentAddresses),
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.agents = append(s.agents, a)
	s.mu.Unlock()
	return a, nil
}

// Files of a device. Beside them its directory gets what the agent makes.
const (
	agentConfig       = "agent.yaml"
	agentAddresses    = "addresses.json"
	agentCert         = "device.crt"
	agentKey          = "device.key"
	agentCA           = "ca.crt"
	agentImageRoot    = "image-root.json"
	agentDirectorRoot = "director-root.json"
)

// MakeDevice issues a device's certificate, and writes what the device is made with
// into a directory: agent.yaml, the agent's configuration, and what that refers to.
// The device finds it in the directory seen, and this machine's loopback at the
// address host; empty: at 127.0.0.1.
func (s *Stack) MakeDevice(o AgentOptions, dir, seen, host string) error {
	ca, err := s.CA()
	if err != nil {
		return err
	}
	credential, err := ca.IssueDevice(o.ID, o.Model, o.Hardware, 24*time.Hour)
	if err != nil {
		return err
	}
	if err := credential.Save(filepath.Join(dir, agentCert), filepath.Join(dir, agentKey)); err != nil {
		return err
	}
	cfg := s.defaultAgentConfig(o, seen, host)
	if o.Config != nil {
		o.Config(cfg)
	}
	files := map[string][]byte{}
	if files[agentConfig], err = cfg.encode(); err != nil {
		return err
	}
	for _, name := range []string{agentCA, agentImageRoot, agentDirectorRoot} {
		if files[name], err = os.ReadFile(s.key("public", name)); err != nil {
			return err
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) defaultAgentConfig(o AgentOptions, dir, host string) Config {
	at := func(name string) string { return filepath.Join(dir, name) }
	seen := func(url string) string {
		if host == "" {
			return url
		}
		return strings.Replace(url, "127.0.0.1", host, 1)
	}
	cfg := Config{}
	cfg.Set(s.TrustDomain, "trust_domain")
	cfg.Set(at("data"), "data_dir")
	cfg.Set([]string{seen(s.BrokerURL())}, "mqtt", "servers")
	cfg.Set([]string{seen(s.DownloadURL())}, "sources")
	cfg.Set(at(agentCert), "tls", "cert")
	cfg.Set(at(agentKey), "tls", "key")
	cfg.Set(at(agentCA), "tls", "ca")
	cfg.Set(at(agentImageRoot), "trust", "image_root")
	cfg.Set(at(agentDirectorRoot), "trust", "director_root")
	cfg.Set("2s", "heartbeat")
	cfg.Set("250ms", "health", "interval")
	cfg.Set("1s", "health", "timeout")
	cfg.Set("1s", "health", "settle")
	cfg.Set("10s", "health", "total")
	for _, section := range []string{"backoff", "retry"} {
		cfg.Set("100ms", section, "min")
		cfg.Set("2s", section, "max")
	}
	if o.Battery {
		cfg.Set("polling", "mode")
		cfg.Set(fmt.Sprintf("%ds", o.PollSeconds), "polling", "interval")
		cfg.Set("500ms", "polling", "jitter")
	}
	if o.Firmware != "" {
		cfg.Set(o.Firmware, "initial", "artifact")
		cfg.Set(o.Version, "initial", "version")
	}
	cfg.Set("127.0.0.1:0", "ops", "listen")
	cfg.Set(at(agentAddresses), "addresses_file")
	return cfg
}

func (a *Agent) path(name string) string { return filepath.Join(a.Dir, name) }

// Agents are the agents that were started, in that order.
func (s *Stack) Agents() []*Agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Agent(nil), s.agents...)
}

// Stop ends the agent and its firmware.
func (a *Agent) Stop() error { return a.Process.Stop(15 * time.Second) }

// Kill ends the agent with SIGKILL, as a power cut would; its firmware dies with
// it.
func (a *Agent) Kill() { a.Process.Kill() }

// Restart starts the agent again, after Kill or Stop, with what is on its disk.
func (a *Agent) Restart(ctx context.Context) (err error) {
	a.Process, err = devstack.Start(ctx, a.Process.Spec())
	return err
}

// Log returns the agent's log records with the message, oldest first.
func (a *Agent) Log(message string) ([]map[string]any, error) {
	data, err := os.ReadFile(a.path("agent.log"))
	if err != nil {
		return nil, err
	}
	var records []map[string]any
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var r map[string]any
		if json.Unmarshal(scanner.Bytes(), &r) == nil && r["msg"] == message {
			records = append(records, r)
		}
	}
	return records, scanner.Err()
}

// Activated reports whether the device ever launched a version, by the agent's
// own log.
func (a *Agent) Activated(version string) (bool, error) {
	launches, err := a.Log("component launched")
	for _, l := range launches {
		if l["version"] == version {
			return true, err
		}
	}
	return false, err
}

// ManifestVersions are the versions of the cohorts' manifests as they were last
// signed.
func (s *Stack) ManifestVersions(ctx context.Context, cohorts ...string) (map[string]int64, error) {
	versions := map[string]int64{}
	for _, name := range cohorts {
		var c struct {
			ManifestVersion int64 `json:"manifest_version"`
		}
		if err := s.API(ctx, "GET", "/v1/cohorts/"+url.PathEscape(name), nil, &c); err != nil {
			return nil, err
		}
		versions[name] = c.ManifestVersion
	}
	return versions, nil
}

// AwaitManifests waits until every agent that stays connected has accepted, for
// each of the cohorts that it is in, a manifest of at least the version. It
// returns when the last of them did, by the agents' own clocks and logs.
func (s *Stack) AwaitManifests(ctx context.Context, versions map[string]int64) (time.Time, error) {
	var last time.Time
	for cohort, version := range versions {
		members, err := s.Devices(ctx, url.Values{"cohort": {cohort}})
		if err != nil {
			return last, err
		}
		in := map[string]bool{}
		for _, d := range members {
			in[d.ID] = true
		}
		for _, a := range s.Agents() {
			if a.Battery || !in[a.ID] {
				continue
			}
			at, err := a.awaitManifest(ctx, cohort, version)
			if err != nil {
				return last, err
			}
			if at.After(last) {
				last = at
			}
		}
	}
	return last, nil
}

func (a *Agent) awaitManifest(ctx context.Context, cohort string, version int64) (time.Time, error) {
	for {
		accepted, err := a.Log("manifest accepted")
		if err != nil {
			return time.Time{}, err
		}
		for _, r := range accepted {
			if v, ok := r["version"].(float64); ok && r["cohort"] == cohort && int64(v) >= version {
				at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(r["at"]))
				if err != nil {
					return at, fmt.Errorf("agent %s: %w", a.ID, err)
				}
				return at, nil
			}
		}
		select {
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("device %s holds no manifest %d of %s: %w", a.ID, version, cohort, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

package main

import (
	"bytes"
	"runtime/debug"
	"strings"
	"testing"

	"groundswell/internal/cli"
	"groundswell/internal/config"
)

const valid = `
data_dir: /var/lib/agent
mqtt: {servers: ["mqtts://broker:8883"]}
tls: {cert: c, key: k, ca: a}
trust: {image_root: i, director_root: d}
`

func TestConfigurationIsRefusedByKey(t *testing.T) {
	parse := func(text string) error {
		cfg := DefaultConfig()
		if err := config.Decode("agent.yaml", []byte(text), &cfg); err != nil {
			return err
		}
		return cfg.Validate()
	}
	if err := parse(valid); err != nil {
		t.Fatal(err)
	}
	if err := parse(valid + "health: {url: none}\n"); err != nil {
		t.Error(err)
	}
	if err := parse(valid + "health: {checks: [{tcp: \"{addr}\"}, {broker: true, offline: 10m}, {disk: /data, free_mb: 100}, {exec: [/bin/true]}, {unit: x.service}]}\n"); err != nil {
		t.Error(err)
	}
	if err := parse(valid + "rauc: {enabled: true, version_file: /etc/version, addr: \"127.0.0.1:80\"}\n"); err != nil {
		t.Error(err)
	}
	if err := parse(valid + "peers: {listen: \":8447\", interfaces: [eth0], facts: [{name: unmetered, command: [/bin/unmetered]}]}\n"); err != nil {
		t.Error(err)
	}
	longest := strings.Replace(valid, "8883\"]", "8883\"], keep_alive: 65535s, session_expiry: 4294967295s", 1) + "polling: {interval: 8784h, jitter: 8784h}\n"
	if err := parse(longest); err != nil {
		t.Errorf("the longest that MQTT can say: %v", err)
	}
	if err := parse(valid + "components: [{name: app}, {name: modem, dir: slots, module: {steps: /modem}, conditions: {lock: /run/modem}}]\nconditions: {lock: /run/busy}\n"); err != nil {
		t.Error(err)
	}
	const mcu, whole = "{name: mcu, module: {steps: /mcu}}", "{name: system, machine: {bootloader: grub, a: /dev/a, b: /dev/b}}"
	for _, text := range []string{
		mcu + ", " + whole + ", {name: set, group: [mcu, system], initial: {version: 1.0.0}, health: {checks: [{broker: true, offline: 10m}]}}",
		"{name: set, group: [app, mcu]}, {name: lens}, {name: app}, " + mcu, // its address is that of app
	} {
		if err := parse(valid + "components: [" + text + "]\n"); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, c := range []struct{ key, text string }{
		{"components[1].group", valid + "components: [" + mcu + ", {name: set, group: [mcu], module: {steps: /x}}]\n"},
		{"components[1].group[1]", valid + "components: [" + mcu + ", {name: set, group: [mcu, lens]}]\n"},
		{"components[1].group[1]", valid + "components: [" + mcu + ", {name: set, group: [mcu, mcu]}]\n"},
		{"components[2].group[0]", valid + "components: [" + mcu + ", {name: set, group: [mcu]}, {name: sets, group: [set]}]\n"},
		{"components[2].group[0]", valid + "components: [" + mcu + ", {name: set, group: [mcu]}, {name: other, group: [mcu]}]\n"},
		{"components[0].group[0]", valid + "components: [{name: set, group: [system, mcu]}, " + mcu + ", " + whole + "]\n"},
		{"components[1].health", valid + "components: [{name: set, group: [app]}, {name: app, health: {settle: 2m}}]\n"},
		{"components[1].conditions", valid + "components: [{name: set, group: [app]}, {name: app, conditions: {lock: /run/x}}]\n"},
		{"components[0].initial", valid + "components: [{name: set, group: [app], initial: {artifact: x, version: 1.0.0}}, {name: app}]\n"},
		{"components[0].initial", valid + "components: [{name: set, group: [app], initial: {version: new}}, {name: app}]\n"},
		{"components[1].health.url", valid + "components: [" + mcu + ", {name: set, group: [mcu], health: {url: \"http://{addr}/x\"}}]\n"},
		{"data_dir", strings.Replace(valid, "data_dir: /var/lib/agent", "", 1)},
		{"mqtt.servers", strings.Replace(valid, `"mqtts://broker:8883"`, "", 1)},
		{"mqtt.servers[0]", strings.Replace(valid, "mqtts://", "mqtt://", 1)},
		{"tls.ca", strings.Replace(valid, ", ca: a", "", 1)},
		{"trust.director_root", strings.Replace(valid, ", director_root: d", "", 1)},
		{"renewal.servers[0]", valid + "renewal: {servers: [http://x]}\n"},
		{"renewal.after", valid + "renewal: {after: 0s}\n"},
		{"peers.interfaces", valid + "peers: {listen: \":8447\"}\n"},
		{"peers.upload_rate", valid + "peers: {listen: \":8447\", interfaces: [eth0], upload_rate: 1000}\n"},
		{"peers.facts[0].command", valid + "peers: {listen: \":8447\", interfaces: [eth0], facts: [{name: unmetered}]}\n"},
		{"fetch.stall", valid + "fetch: {stall: 0s}\n"},
		{"fetch.min_rate", valid + "fetch: {min_rate: 0}\n"},
		{"sources[0]", valid + "sources: [ftp://x]\n"},
		{"mode", valid + "mode: sometimes\n"},
		{"time_zone", valid + "time_zone: Europe/Atlantis\n"},
		{"component", valid + "component: ../x\n"},
		{"polling.interval", valid + "polling: {interval: 0s}\n"},
		{"mqtt.keep_alive", strings.Replace(valid, "8883\"]", "8883\"], keep_alive: 65536s", 1)},
		{"mqtt.keep_alive", strings.Replace(valid, "8883\"]", "8883\"], keep_alive: 65535500ms", 1)}, // 65536 s, and that is 0
		{"mqtt.session_expiry", strings.Replace(valid, "8883\"]", "8883\"], session_expiry: 4294967296s", 1)},
		{"polling.interval", valid + "polling: {interval: 8785h}\n"},
		{"polling.jitter", valid + "polling: {jitter: 2540000h}\n"}, // twice that overflows
		{"heartbeat", valid + "heartbeat: -1s\n"},
		{"unmanaged", valid + "unmanaged: 0s\n"},
		{"health.total", valid + "health: {settle: 10m}\n"},
		{"retry", valid + "retry: {min: 1h, max: 1m}\n"},
		{"firmware.addr", valid + "firmware: {addr: nowhere}\n"},
		{"machine.bootloader", valid + "machine: {a: /dev/a, b: /dev/b}\n"},
		{"machine.bootloader", valid + "machine: {bootloader: lilo, a: /dev/a, b: /dev/b}\n"},
		{"machine.a", valid + "machine: {bootloader: grub, b: /dev/b}\n"},
		{"machine.b", valid + "machine: {bootloader: grub, a: /dev/a, b: sdb}\n"},
		{"machine.b", valid + "machine: {bootloader: u-boot, a: /dev/a, b: /dev/a}\n"},
		{"machine.tries", valid + "machine: {bootloader: grub, a: /dev/a, b: /dev/b, tries: 6}\n"},
		{"health.checks[0]", valid + "health: {checks: [{name: x}]}\n"},
		{"health.checks[1]", valid + "health: {checks: [{broker: true}, {tcp: here}]}\n"},
		{"conditions.lock", valid + "conditions: {lock: busy}\n"},
		{"conditions.battery.min_percent", valid + "conditions: {battery: {min_percent: 101}}\n"},
		{"conditions.battery.external", valid + "conditions: {battery: {external: maybe}}\n"},
		{"conditions.facts[0].name", valid + "conditions: {facts: [{command: [/bin/true]}]}\n"},
		{"conditions.facts[0].command", valid + "conditions: {facts: [{name: consent, command: [ask]}]}\n"},
		{"conditions.facts[1].before", valid + "conditions: {facts: [{name: a, command: [/b]}, {name: c, command: [/d], before: noon}]}\n"},
		{"download.rate", valid + "download: {rate: 100}\n"},
		{"energy.radio_uj", valid + "energy: {radio_uj: 0}\n"},
		{"energy.processor_mw", valid + "energy: {processor_mw: -1}\n"},
		{"energy.decode_rate", valid + "energy: {decode_rate: 0}\n"},
		{"download.daily_budget", valid + "download: {daily_budget: 1}\n"},
		{"download.windows[0].end", valid + "download: {windows: [{start: \"01:00\", end: \"24:00\"}]}\n"},
		{"download.metered.then", valid + "download: {metered: {unmetered: [/bin/true], then: perhaps}}\n"},
		{"download.metered.unmetered", valid + "download: {metered: {then: wait}}\n"},
		{"watchdog.timeout", valid + "watchdog: {timeout: 90ms}\n"},
		{"health.url", valid + "module: {steps: /modem}\nhealth: {url: \"http://{addr}/x\"}\n"},
		{"health.checks[0]", valid + "machine: {bootloader: grub, a: /dev/a, b: /dev/b}\nhealth: {checks: [{tcp: \"{addr}\"}]}\n"},
		{"module.steps", valid + "module: {steps: modem}\n"},
		{"polling.awake", valid + "polling: {awake: -1s}\n"},
		{"polling.bytes", valid + "polling: {bytes: -1}\n"},
		{"polling.below_percent", valid + "polling: {below_percent: 101}\n"},
		{"polling.back_percent", valid + "polling: {below_percent: 30}\n"},
		{"polling.back_percent", valid + "polling: {below_percent: 20, back_percent: 101}\n"},
		{"module.steps", valid + "module: {steps: /modem}\nmachine: {bootloader: grub, a: /dev/a, b: /dev/b}\n"},
		{"module.version", valid + "module: {steps: /modem, version: new}\n"},
		{"module.patience", valid + "module: {steps: /modem, patience: 0s}\n"},
		{"initial", valid + "module: {steps: /modem}\ninitial: {artifact: x, version: 1.0.0}\n"},
		{"machine.restart", valid + "machine: {bootloader: grub, a: /dev/a, b: /dev/b, restart: []}\n"},
		{"initial", valid + "machine: {bootloader: grub, a: /dev/a, b: /dev/b}\ninitial: {artifact: x, version: 1.0.0}\n"},
		{"rauc.enabled", valid + "rauc: {version_file: /etc/version}\n"},
		{"rauc.enabled", valid + "rauc: {enabled: true}\nmachine: {bootloader: grub, a: /dev/a, b: /dev/b}\n"},
		{"rauc.enabled", valid + "rauc: {enabled: true}\nmodule: {steps: /modem}\n"},
		{"rauc.call_time", valid + "rauc: {enabled: true, call_time: 0s}\n"},
		{"rauc.install_time", valid + "rauc: {enabled: true, install_time: 30s}\n"},
		{"rauc.restart", valid + "rauc: {enabled: true, restart: []}\n"},
		{"health.checks[0]", valid + "rauc: {enabled: true}\nhealth: {checks: [{tcp: \"{addr}\"}]}\n"},
		{"initial", valid + "rauc: {enabled: true}\ninitial: {artifact: x, version: 1.0.0}\n"},
		{"firmware.tries", valid + "firmware: {tries: 0}\n"},
		{"firmware.env", valid + "firmware: {env: {\"A=B\": c}}\n"},
		{"mqtt.servers[0]", strings.Replace(valid, ":8883", "", 1)},
		{"firmware.addr", valid + "firmware: {addr: \"127.0.0.1:http\"}\n"},
		{"firmware.addr", valid + "firmware: {addr: \"127.0.0.1:65536\"}\n"},
		{"firmware.args[1]", valid + "firmware: {args: [a, \"b\\0\"]}\n"},
		{"firmware.env.LENS", valid + "firmware: {env: {LENS: \"b\\0\"}}\n"},
		{"firmware.env.FIRMWARE_ADDR", valid + "firmware: {env: {FIRMWARE_ADDR: \"127.0.0.1:80\"}}\n"},
		{"firmware.env.GROUNDSWELL_SLOTS", valid + "firmware: {env: {GROUNDSWELL_SLOTS: x}}\n"},
		{"health.url", valid + "health: {url: \"{addr}/healthz\"}\n"},
		{"health.url", valid + "health: {url: \"\"}\n"},
		{"health.url", valid + "health: {url: /healthz}\n"},
		{"initial", valid + "initial: {artifact: x}\n"},
		{"initial.version", valid + "initial: {artifact: x, version: one}\n"},
		{"heartbaet", valid + "heartbaet: 1m\n"},
		{"device", valid + "device: a/b\n"},
		{"component", valid + "component: app\ncomponents: [{name: app}]\n"},
		{"firmware", valid + "firmware: {tries: 4}\ncomponents: [{name: app}]\n"},
		{"module", valid + "module: {steps: /modem}\ncomponents: [{name: app}]\n"},
		{"machine", valid + "machine: {bootloader: grub, a: /dev/a, b: /dev/b}\ncomponents: [{name: app}]\n"},
		{"health", valid + "health: {settle: 2m}\ncomponents: [{name: app}]\n"},
		{"initial", valid + "initial: {artifact: x, version: 1.0.0}\ncomponents: [{name: app}]\n"},
		{"components[0].name", valid + "components: [{firmware: {tries: 2}}]\n"},
		{"components[1].name", valid + "components: [{name: app}, {name: app}]\n"},
		{"components[0].dir", valid + "components: [{name: app, dir: journal}]\n"},
		{"components[0].dir", valid + "components: [{name: app, dir: \"slots-../x\"}]\n"},
		{"components[1].dir", valid + "components: [{name: app, dir: slots-modem}, {name: modem}]\n"},
		{"components[1].machine", valid + "components: [{name: a, machine: {bootloader: grub, a: /dev/a, b: /dev/b}}, {name: b, machine: {bootloader: grub, a: /dev/a, b: /dev/b}}]\n"},
		{"components[1].firmware.addr", valid + "components: [{name: a}, {name: b, firmware: {addr: nowhere}}]\n"},
		{"components[0].firmware.backoff", valid + "components: [{name: a, firmware: {backoff: {min: 1h, max: 1s}}}]\n"},
		{"components[0].health.settle", valid + "components: [{name: a, health: {settle: 0s}}]\n"},
		{"components[0].conditions.lock", valid + "components: [{name: a, conditions: {lock: busy}}]\n"},
		{"components[0].initial", valid + "components: [{name: a, initial: {version: 1.0.0}}]\n"},
		{"firmwares", valid + "components: [{name: a, firmwares: {tries: 2}}]\n"},
		{"duration \"90\"", valid + "components: [{name: a, health: {settle: 90}}]\n"},
		{"components: at most 15", valid + "components: [" + strings.Repeat("{name: a},", 16) + "]\n"},
		{"component: \"agent\"", valid + "component: agent\n"},
		{"components[1].name: \"itself\"", valid + "self: {component: itself}\ncomponents: [{name: agent}, {name: itself}]\n"},
		{"self.component", valid + "self: {component: a/b}\n"},
		{"self.tries", valid + "self: {tries: 0}\n"},
		{"self.alive", valid + "self: {alive: 100ms}\n"},
		{"self.settle", valid + "self: {settle: 0s}\n"},
		{"self.total", valid + "self: {total: 30s}\n"},
		{"self.checks[0]", valid + "self: {checks: [{name: x}]}\n"},
	} {
		if err := parse(c.text); err == nil || !strings.Contains(err.Error(), c.key) {
			t.Errorf("%s: got %v", c.key, err)
		}
	}
}

func TestCertificateOfAnotherDeviceIsRefused(t *testing.T) {
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	for _, c := range []struct{ old, new, want string }{
		{"device: cam-1", "device: cam-2", `"cam-1"`},
		{"trust_domain: " + domain, "trust_domain: other.test", `"other.test"`},
	} {
		d.replace(c.old, c.new)
		var out, errOut bytes.Buffer
		if code := daemon().Exec(t.Context(), []string{"--config", d.config}, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errOut}); code != cli.Failed || !strings.Contains(errOut.String(), c.want) {
			t.Errorf("%s: code %d, %s", c.new, code, errOut.String())
		}
		d.replace(c.new, c.old)
	}
}

// TestTheLimitOfMemoryGivesWayToTheEnvironment.
func TestTheLimitOfMemoryGivesWayToTheEnvironment(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	for env, want := range map[string]int64{"": memoryLimit, "1GiB": 1 << 40} {
		debug.SetMemoryLimit(1 << 40) // what Go made of the environment
		t.Setenv("GOMEMLIMIT", env)
		if limitMemory(); debug.SetMemoryLimit(-1) != want {
			t.Errorf("%q: %d bytes, want %d", env, debug.SetMemoryLimit(-1), want)
		}
	}
}

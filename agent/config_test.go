package main

import (
	"bytes"
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
	longest := strings.Replace(valid, "8883\"]", "8883\"], keep_alive: 65535s, session_expiry: 4294967295s", 1) + "polling: {interval: 8784h, jitter: 8784h}\n"
	if err := parse(longest); err != nil {
		t.Errorf("the longest that MQTT can say: %v", err)
	}
	for _, c := range []struct{ key, text string }{
		{"data_dir", strings.Replace(valid, "data_dir: /var/lib/agent", "", 1)},
		{"mqtt.servers", strings.Replace(valid, `"mqtts://broker:8883"`, "", 1)},
		{"mqtt.servers[0]", strings.Replace(valid, "mqtts://", "mqtt://", 1)},
		{"tls.ca", strings.Replace(valid, ", ca: a", "", 1)},
		{"trust.director_root", strings.Replace(valid, ", director_root: d", "", 1)},
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

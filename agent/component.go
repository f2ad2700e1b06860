package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"groundswell/agent/condition"
	"groundswell/agent/deploy"
	"groundswell/agent/group"
	"groundswell/agent/health"
	"groundswell/agent/slot"
	"groundswell/topics"
)

// Component is one of several parts of a device that are updated by themselves.
// It is a process (Firmware) unless it is a Module, the Machine, RAUC's or a Group.
type Component struct {
	// Name is what releases call it. Required.
	Name string `yaml:"name"`
	// Dir holds its slots, below data_dir. Default slots-NAME. "slots" is where a
	// device has those of its only component: whoever makes it one of several says
	// so here, or the component begins anew.
	Dir      string   `yaml:"dir"`
	Firmware Firmware `yaml:"firmware"`
	Module   Module   `yaml:"module"`
	Machine  Machine  `yaml:"machine"`
	RAUC     RAUC     `yaml:"rauc"`
	// Group names other components, in order, that are updated together with this
	// one release, all or none of them; see package group. They have no releases of
	// their own, and neither Health nor Conditions.
	Group  []string `yaml:"group"`
	Health Health   `yaml:"health"`
	// Conditions must hold besides those of the device.
	Conditions condition.Config `yaml:"conditions"`
	// Initial of a group has a version only.
	Initial Initial `yaml:"initial"`

	members []Component // of the group
}

// soleDir holds the slots of a device's only component.
const soleDir = "slots"

// defaultComponent is what applies where the file is silent about a component.
func defaultComponent() Component {
	c := DefaultConfig()
	return Component{Firmware: c.Firmware, Module: c.Module, Machine: c.Machine, RAUC: c.RAUC, Health: c.Health}
}

// UnmarshalYAML decodes over the defaults.
func (c *Component) UnmarshalYAML(decode func(any) error) error {
	type plain Component
	p := plain(defaultComponent())
	if err := decode(&p); err != nil {
		return err
	}
	*c = Component(p)
	return nil
}

// components lists what the device is made of, in the order of installation: the
// list, or the one that the top level of the file describes.
func (c *Config) components() []Component {
	if len(c.Components) == 0 {
		return []Component{{
			Name: c.Component, Dir: soleDir, Firmware: c.Firmware, Module: c.Module, Machine: c.Machine, RAUC: c.RAUC,
			Health: c.Health, Initial: c.Initial,
		}}
	}
	return grouped(c.listed())
}

// listed are all components, also those that are members of a group.
func (c *Config) listed() []Component {
	if len(c.Components) == 0 {
		return c.components()
	}
	list := make([]Component, len(c.Components))
	for i, component := range c.Components {
		if component.Dir == "" {
			component.Dir = soleDir + "-" + component.Name
		}
		list[i] = component
	}
	return list
}

// validateComponents names the key that is wrong.
func (c *Config) validateComponents() error {
	if len(c.Components) == 0 {
		sole := c.components()[0]
		if err := topics.CheckID("component", sole.Name); err != nil {
			return err
		}
		if sole.Name == c.Self.Component {
			return fmt.Errorf("component: %q is what the agent itself is called, by self.component", sole.Name)
		}
		return errors.Join(sole.validate(), sole.validateAddr())
	}
	def := DefaultConfig()
	for _, k := range []struct {
		key      string
		has, def any
	}{
		{"component", c.Component, def.Component}, {"firmware", c.Firmware, def.Firmware}, {"module", c.Module, def.Module},
		{"machine", c.Machine, def.Machine}, {"rauc", c.RAUC, def.RAUC}, {"health", c.Health, def.Health}, {"initial", c.Initial, def.Initial},
	} {
		if !reflect.DeepEqual(k.has, k.def) {
			return fmt.Errorf("%s: describes the only component of a device, and components lists several: it belongs to one of them", k.key)
		}
	}
	if len(c.Components) >= topics.MaxComponents { // and the agent
		return fmt.Errorf("components: at most %d", topics.MaxComponents-1)
	}
	names, dirs, machine := map[string]bool{}, map[string]bool{}, ""
	for i, component := range c.listed() {
		at := fmt.Sprintf("components[%d].", i)
		if err := topics.CheckID(at+"name", component.Name); err != nil {
			return err
		}
		if err := topics.CheckID(at+"dir", component.Dir); err != nil {
			return err
		}
		switch {
		case component.Name == c.Self.Component:
			return fmt.Errorf("%sname: %q is what the agent itself is called, by self.component", at, component.Name)
		case names[component.Name]:
			return fmt.Errorf("%sname: %q stands twice", at, component.Name)
		case component.Dir != soleDir && !strings.HasPrefix(component.Dir, soleDir+"-"):
			return fmt.Errorf("%sdir: must be %s or begin with %s-", at, soleDir, soleDir)
		case dirs[component.Dir]:
			return fmt.Errorf("%sdir: %q stands twice", at, component.Dir)
		case component.system() != "" && machine != "":
			return fmt.Errorf("%s%s: %s is the machine already", at, component.system(), machine)
		}
		names[component.Name], dirs[component.Dir] = true, true
		if component.system() != "" {
			machine = component.Name
		}
		if err := component.validate(); err != nil {
			return fmt.Errorf("%s%w", at, err)
		}
	}
	if err := validateGroups(c.listed()); err != nil {
		return err
	}
	for _, component := range c.components() {
		if err := component.validateAddr(); err != nil {
			i := slices.IndexFunc(c.Components, func(o Component) bool { return o.Name == component.Name })
			return fmt.Errorf("components[%d].%w", i, err)
		}
	}
	return nil
}

// process reports whether the component is a process that the agent runs.
func (c *Component) process() bool {
	return c.system() == "" && c.Module.Steps == "" && len(c.Group) == 0
}

// system is the key that makes the component the whole system; "" if it is not.
func (c *Component) system() string {
	switch {
	case c.Machine.Bootloader != "":
		return "machine"
	case c.RAUC.Enabled:
		return "rauc"
	}
	return ""
}

// validate names the key that is wrong, without the component.
func (c *Component) validate() error {
	if err := c.Firmware.validate(); err != nil {
		return err
	}
	if err := c.Machine.validate(); err != nil {
		return err
	}
	if err := c.Module.validate(); err != nil {
		return err
	}
	if c.Module.Steps != "" && c.Machine.Bootloader != "" {
		return errors.New("module.steps: a component is a module or the whole system (machine.bootloader), not both")
	}
	if err := c.RAUC.validate(); err != nil {
		return err
	}
	if c.RAUC.Enabled && (c.Module.Steps != "" || c.Machine.Bootloader != "") {
		return errors.New("rauc.enabled: what RAUC installs is neither a module (module.steps) nor written by the agent (machine.bootloader)")
	}
	def := defaultComponent()
	if len(c.Group) > 0 && !(reflect.DeepEqual(c.Firmware, def.Firmware) && reflect.DeepEqual(c.Module, def.Module) && reflect.DeepEqual(c.Machine, def.Machine) && reflect.DeepEqual(c.RAUC, def.RAUC)) {
		return errors.New("group: a group consists of its members, and is neither firmware nor module nor machine nor rauc")
	}
	if err := c.Health.validate(); err != nil {
		return err
	}
	if err := c.Conditions.Validate(); err != nil {
		return fmt.Errorf("conditions.%w", err)
	}
	switch {
	case len(c.Group) > 0 && c.Initial.Artifact != "":
		return errors.New("initial.artifact: a group has none; its members may")
	case len(c.Group) == 0 && (c.Initial.Artifact == "") != (c.Initial.Version == ""):
		return errors.New("initial: artifact and version belong together")
	case c.Initial.Version != "" && !c.process() && len(c.Group) == 0:
		return errors.New("initial: is for a component that is a process (see firmware), which this one is not")
	}
	if c.Initial.Version != "" {
		return topics.CheckVersion("initial.version", c.Initial.Version)
	}
	return nil
}

// addressed reports whether the component is given an address to answer at.
func (c *Component) addressed() bool {
	switch {
	case c.Machine.Bootloader != "":
		return c.Machine.Addr != ""
	case c.RAUC.Enabled:
		return c.RAUC.Addr != ""
	case len(c.Group) > 0: // that of the first that has one
		return slices.ContainsFunc(c.members, func(m Component) bool { return m.addressed() })
	}
	return c.process()
}

// validateAddr refuses to ask at an address that there is not: every release would be
// rolled back for it.
func (c *Component) validateAddr() error {
	if c.addressed() {
		return nil
	}
	const why = `"{addr}" stands for nothing: the component has no address`
	if strings.Contains(c.Health.URL, "{addr}") && c.Health.URL != defaultHealthURL {
		return fmt.Errorf("health.url: %s", why)
	}
	for i, check := range c.Health.Checks {
		if strings.Contains(check.HTTP+check.TCP, "{addr}") {
			return fmt.Errorf("health.checks[%d]: %s", i, why)
		}
	}
	return nil
}

func (c *Component) healthConfig() health.Config {
	h := health.Config{
		URL: c.Health.URL, Interval: c.Health.Interval, Timeout: c.Health.Timeout,
		Settle: c.Health.Settle, Total: c.Health.Total, Checks: c.Health.Checks,
	}
	if h.URL == defaultHealthURL && len(h.Checks) == 0 && (c.system() != "" || len(c.Group) > 0) {
		// That the machine has booted, and answers itself, says little: a new kernel
		// without the network's driver does so as well.
		h.Checks = []health.Check{{Broker: true}}
	}
	if h.URL == "none" || h.URL == defaultHealthURL && !c.addressed() {
		h.URL = ""
	}
	return h
}

// part is a component with its slots.
type part struct {
	Component
	slots  component
	itself bool // it is the agent
}

// component is what the agent keeps up to date.
type component interface {
	deploy.Slots
	Run(ctx context.Context) error
}

// openParts opens the slots of all components, in their order. On a device in service,
// one that cannot be opened keeps none of the others from running.
func openParts(ctx context.Context, cfg Config, log *slog.Logger) ([]part, error) {
	var parts []part
	var failed error
	for _, c := range cfg.components() {
		slots, err := openComponent(ctx, cfg.DataDir, c, log.With("component", c.Name))
		if err == nil {
			parts = append(parts, part{Component: c, slots: slots})
			continue
		}
		err = fmt.Errorf("component %s: %w", c.Name, err)
		if !inService(cfg) {
			return nil, err
		}
		log.Error("a component cannot be opened, the others run without it until the agent starts again", "err", err)
		failed = errors.Join(failed, err)
	}
	if len(parts) == 0 {
		return nil, failed
	}
	return parts, nil
}

// openComponent opens a process, the whole system, or what a module or RAUC updates.
func openComponent(ctx context.Context, dataDir string, c Component, log *slog.Logger) (component, error) {
	path := filepath.Join(dataDir, c.Dir)
	switch {
	case c.Machine.Bootloader != "":
		m, err := openMachine(ctx, path, c.Machine, log)
		if err != nil {
			return nil, err
		}
		// What runs, runs; that it is to run the next time as well can be written later.
		if err := m.Adopt(ctx); err != nil {
			log.Error("bootloader", "err", err)
		}
		return m, nil
	case c.Module.Steps != "":
		return openModule(path, c.Module, log)
	case c.RAUC.Enabled:
		return openRAUC(path, c.RAUC, log)
	case len(c.Group) > 0:
		return openGroup(ctx, dataDir, c, log)
	}
	dir, err := openDir(path, c.Initial)
	if err != nil {
		return nil, err
	}
	f := c.Firmware
	return slot.New(dir, slot.Config{
		Args: f.Args, Env: f.Env, Addr: f.Addr, Tries: f.Tries,
		Grace: f.Grace, BackoffMin: f.Backoff.Min, BackoffMax: f.Backoff.Max, Log: log,
	}), nil
}

// openDir opens the slots of a process, with the initial version in the first if there
// is nothing in them.
func openDir(path string, initial Initial) (*slot.Dir, error) {
	dir, err := slot.OpenDir(path)
	if err != nil {
		return nil, err
	}
	if initial.Artifact != "" {
		if err := dir.Provision(initial.Artifact, initial.Version); err != nil {
			return nil, err
		}
	}
	return dir, nil
}

// activeSlot is the slot that boots by itself, and what it holds.
func activeSlot(ctx context.Context, dataDir string, c Component) (name string, image slot.Image, err error) {
	path, silent := filepath.Join(dataDir, c.Dir), slog.New(slog.DiscardHandler)
	var slots component
	switch {
	case c.Machine.Bootloader != "":
		slots, err = openMachine(ctx, path, c.Machine, silent)
	case c.Module.Steps != "":
		slots, err = openModule(path, c.Module, silent)
	case c.RAUC.Enabled:
		s, errOpen := openRAUC(path, c.RAUC, silent)
		if errOpen == nil {
			errOpen = s.Ask(ctx)
		}
		slots, err = s, errOpen
	case len(c.Group) > 0:
		return group.Recorded(path)
	default:
		dir, err := slot.OpenDir(path)
		if err != nil {
			return "", slot.Image{}, err
		}
		return dir.Active()
	}
	if err != nil {
		return "", slot.Image{}, err
	}
	r := slots.Running()
	return r.Slot, r.Image, nil
}

// facts are what heartbeats and logs say about the components. The boot id is that of
// the first.
func facts(parts []part, agent string, logs bool) (versions map[string]string, boot string, texts map[string]string) {
	versions = map[string]string{}
	for _, p := range parts {
		for name, version := range deploy.Versions(p.Name, p.slots) {
			versions[name] = version
		}
	}
	if logs {
		texts = map[string]string{}
		for _, p := range parts {
			texts[p.Name] = p.slots.Output()
		}
		texts["agent"] = agent
	}
	return versions, deploy.BootID(parts[0].slots), texts
}

func names(parts []part) string {
	list := make([]string, len(parts))
	for i, p := range parts {
		list[i] = p.Name
	}
	return strings.Join(list, " ")
}

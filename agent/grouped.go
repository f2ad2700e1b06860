package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"

	"groundswell/agent/condition"
	"groundswell/agent/group"
)

// grouped puts the members of groups into their groups, and leaves the rest in order.
func grouped(all []Component) []Component {
	byName, member := map[string]Component{}, map[string]bool{}
	for _, c := range all {
		byName[c.Name] = c
		for _, name := range c.Group {
			member[name] = true
		}
	}
	var list []Component
	for _, c := range all {
		for _, name := range c.Group {
			c.members = append(c.members, byName[name])
		}
		if !member[c.Name] {
			list = append(list, c)
		}
	}
	return list
}

// validateGroups names the key that is wrong. all are the components, each of which is
// valid by itself.
func validateGroups(all []Component) error {
	at := map[string]int{}
	for i, c := range all {
		at[c.Name] = i
	}
	in := map[string]string{} // the group of a member
	def := defaultComponent()
	for i, c := range all {
		for j, name := range c.Group {
			key := fmt.Sprintf("components[%d].group[%d]", i, j)
			k, ok := at[name]
			if !ok {
				return fmt.Errorf("%s: there is no component %q", key, name)
			}
			m, own := all[k], fmt.Sprintf("components[%d].", k)
			switch {
			case len(m.Group) > 0:
				return fmt.Errorf("%s: %s is a group itself", key, name)
			case in[name] != "":
				return fmt.Errorf("%s: %s is a member of %s already", key, name, in[name])
			case m.RAUC.Enabled:
				return fmt.Errorf("%s: %s is installed by RAUC, which is not a member of groups", key, name)
			case m.Machine.Bootloader != "" && j < len(c.Group)-1:
				return fmt.Errorf("%s: %s restarts the machine, so it must be the last", key, name)
			case !reflect.DeepEqual(m.Health, def.Health):
				return fmt.Errorf("%shealth: is that of the group, %s", own, c.Name)
			case !reflect.DeepEqual(m.Conditions, condition.Config{}):
				return fmt.Errorf("%sconditions: are those of the group, %s", own, c.Name)
			}
			in[name] = c.Name
		}
	}
	return nil
}

// restarts reports whether an activation of the component restarts the machine.
func (c *Component) restarts() bool {
	return c.system() != "" || slices.ContainsFunc(c.members, func(m Component) bool { return m.restarts() })
}

// openGroup opens the slots of a group. Where the machine is among the members, its
// first boot is one more start of the others that are on trial already.
func openGroup(ctx context.Context, dataDir string, c Component, log *slog.Logger) (*group.Group, error) {
	cfg := group.Config{Dir: filepath.Join(dataDir, c.Dir), Version: c.Initial.Version, At: faultsOf(c.Name), Log: log}
	for _, m := range c.members {
		if c.restarts() {
			m.Firmware.Tries++
			m.Module.Tries++
		}
		opened, err := openComponent(ctx, dataDir, m, log.With("member", m.Name))
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", m.Name, err)
		}
		slots, ok := opened.(group.Slots)
		if !ok {
			return nil, fmt.Errorf("member %s: its kind cannot be part of a group", m.Name)
		}
		cfg.Members = append(cfg.Members, group.Member{Name: m.Name, Slots: slots})
	}
	return group.Open(cfg)
}

package rauc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"groundswell/agent/slot"

	"github.com/godbus/dbus/v5"
)

// Names on the bus (de.pengutronix.rauc.Installer.xml of RAUC 1.8).
const (
	busName  = "de.pengutronix.rauc"
	busPath  = "/"
	busIface = "de.pengutronix.rauc.Installer"
	busProps = "org.freedesktop.DBus.Properties"
)

var (
	// ErrUnavailable: RAUC's service is not there, does not answer in time, or does
	// something else just now. What hangs may still do what it was asked for, in order,
	// when it goes on.
	ErrUnavailable = fmt.Errorf("RAUC's service: %w", slot.ErrUnavailable)
	// ErrRefused is what RAUC does not do, with what it says about it.
	ErrRefused = fmt.Errorf("RAUC: %w", slot.ErrInstaller)
)

// service is RAUC's, on the bus at an address; "": the system's bus. A call of it takes
// callTime at most, an installation installTime.
type service struct {
	address               string
	callTime, installTime time.Duration
}

// with connects for the time that do takes.
func (s service) with(ctx context.Context, limit time.Duration, do func(ctx context.Context, conn *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	late := time.AfterFunc(s.callTime, cancel)
	conn, err := s.connect(ctx)
	if !late.Stop() {
		err = errors.Join(err, fmt.Errorf("no answer within %v", s.callTime))
	}
	if err != nil {
		return fmt.Errorf("%w: D-Bus: %w", ErrUnavailable, err)
	}
	defer conn.Close()
	if err = do(ctx, conn); err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: no answer within %v: %w", ErrUnavailable, limit, ctx.Err())
	}
	return err
}

func (s service) connect(ctx context.Context) (*dbus.Conn, error) {
	if s.address == "" {
		return dbus.ConnectSystemBus(dbus.WithContext(ctx))
	}
	return dbus.Connect(s.address, dbus.WithContext(ctx))
}

// busy is how RAUC answers what it cannot do while it installs.
const busy = "already processing a different method"

// RAUC looks at each mounted device when it finds out about its slots, and gives up when a
// loop device goes away meanwhile, whoever's it is. So what it refuses for that is asked
// for again, a few times (RAUC 1.8: "Error getting loop backing_file for /dev/loop8").
const (
	passing    = "determine slot states"
	tries      = 5
	betweenTry = 100 * time.Millisecond
)

// call calls a method of RAUC's, which may be repeated, and takes its answer.
func call(ctx context.Context, conn *dbus.Conn, method string, args []any, answer ...any) error {
	return again(ctx, func() error { return callOnce(ctx, conn, method, args, answer...) })
}

// again repeats what RAUC refuses for what passes by itself.
func again(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if try == tries || !errors.Is(err, ErrRefused) || !strings.Contains(strings.ToLower(err.Error()), passing) {
			return err
		}
		timer := time.NewTimer(betweenTry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

func callOnce(ctx context.Context, conn *dbus.Conn, method string, args []any, answer ...any) error {
	err := conn.Object(busName, busPath).CallWithContext(ctx, method, 0, args...).Store(answer...)
	var said dbus.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &said) && !strings.HasPrefix(said.Name, "org.freedesktop.DBus.Error."):
		if text := strings.TrimSpace(said.Error()); !strings.EqualFold(text, busy) {
			return fmt.Errorf("%w: %.500s", ErrRefused, text)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// content is what RAUC has put into a slot, as it remembers it. Zero: nothing.
type content struct {
	Version string `json:"version,omitempty"` // of the bundle
	SHA256  string `json:"sha256,omitempty"`  // of the image, not of the bundle
	Size    int64  `json:"size,omitempty"`    // of the image, bytes
	Count   uint32 `json:"count,omitempty"`   // installations so far
	At      string `json:"at,omitempty"`      // of the last one
}

// place is a slot of RAUC's.
type place struct {
	name, class, kind, device, bootname, parent string
	booted, good                                bool
	activated                                   uint32 // how often
	holds                                       content
}

// system is what RAUC says.
type system struct {
	// running and idle are the slots that the bootloader chooses between.
	running, idle place
	// groups are they and those below them, by bootname.
	groups map[string][]place
	// primary is the bootname of the slot that RAUC takes for the next to be booted; "":
	// there is none.
	primary string
}

// system asks RAUC about its slots.
func (s service) system(ctx context.Context) (*system, error) {
	var answer []struct {
		Name string
		Info map[string]dbus.Variant
	}
	var primary string
	err := s.with(ctx, s.callTime, func(ctx context.Context, conn *dbus.Conn) error {
		err := call(ctx, conn, busIface+".GetSlotStatus", nil, &answer)
		if err == nil {
			err = call(ctx, conn, busIface+".GetPrimary", nil, &primary)
		}
		if errors.Is(err, ErrRefused) && answer != nil {
			return nil // no slot is good
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	places := make([]place, len(answer))
	for i, a := range answer {
		places[i] = placeOf(a.Name, a.Info)
	}
	return systemOf(places, primary)
}

func placeOf(name string, info map[string]dbus.Variant) place {
	text := func(key string) string {
		v, _ := info[key].Value().(string)
		return v
	}
	count := func(key string) uint32 {
		v, _ := info[key].Value().(uint32)
		return v
	}
	size, _ := info["size"].Value().(uint64)
	return place{
		name: name, class: text("class"), kind: text("type"), device: text("device"), bootname: text("bootname"), parent: text("parent"),
		booted: text("state") == "booted", good: text("boot-status") == "good", activated: count("activated.count"),
		holds: content{
			Version: text("bundle.version"), SHA256: text("sha256"), Size: int64(size),
			Count: count("installed.count"), At: text("installed.timestamp"),
		},
	}
}

// systemOf finds the two slots that are updated in turn.
func systemOf(places []place, primary string) (*system, error) {
	byName := map[string]place{}
	for _, p := range places {
		byName[p.name] = p
	}
	root := func(p place) place {
		for range places { // a circle has an end
			parent, ok := byName[p.parent]
			if !ok {
				break
			}
			p = parent
		}
		return p
	}
	s := &system{groups: map[string][]place{}}
	for _, p := range places {
		if p.booted {
			s.running = root(p)
		}
	}
	if s.running.bootname == "" {
		return nil, fmt.Errorf("%w: no slot with a bootname is the booted one", ErrRefused)
	}
	others := slices.DeleteFunc(slices.Clone(places), func(p place) bool {
		return p.class != s.running.class || p.bootname == "" || p.name == s.running.name
	})
	if len(others) != 1 {
		return nil, fmt.Errorf("%w: beside %s there are %d slots of class %s with a bootname, and must be one", ErrRefused, s.running.name, len(others), s.running.class)
	}
	s.idle = others[0]
	for _, p := range places {
		if r := root(p); r.name == s.running.name || r.name == s.idle.name {
			s.groups[r.bootname] = append(s.groups[r.bootname], p)
		}
	}
	s.primary = byName[primary].bootname
	return s, nil
}

// mark marks a slot of RAUC's as "good", "bad" or "active". It may be repeated.
func (s service) mark(ctx context.Context, state, name string) error {
	var which, said string
	err := s.with(ctx, s.callTime, func(ctx context.Context, conn *dbus.Conn) error {
		return call(ctx, conn, busIface+".Mark", []any{state, name}, &which, &said)
	})
	if err != nil {
		return fmt.Errorf("mark slot %s %s: %w", name, state, err)
	}
	return nil
}

// version is what a bundle says that it is. RAUC does not say what is wrong with one
// that it refuses.
func (s service) version(ctx context.Context, bundle string) (version string, err error) {
	var compatible string
	err = s.with(ctx, s.callTime, func(ctx context.Context, conn *dbus.Conn) error {
		return call(ctx, conn, busIface+".Info", []any{bundle}, &compatible, &version)
	})
	return version, err
}

package rauc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// look is how often it is looked whether an installation still goes on, should a signal
// get lost.
const look = 10 * time.Second

// install has RAUC install a bundle, tells what it is at, and returns when it has ended.
// RAUC goes on when whoever waits for it is killed.
func (s service) install(ctx context.Context, bundle string, progress func(percent int, message string)) error {
	return s.listen(ctx, func(ctx context.Context, conn *dbus.Conn, signals <-chan *dbus.Signal) error {
		return again(ctx, func() error { return s.installOnce(ctx, conn, signals, bundle, progress) })
	})
}

func (s service) installOnce(ctx context.Context, conn *dbus.Conn, signals <-chan *dbus.Signal, bundle string, progress func(percent int, message string)) error {
	if err := s.call(ctx, conn, busIface+".InstallBundle", []any{bundle, map[string]dbus.Variant{}}); err != nil {
		return err
	}
	if err := s.completed(ctx, conn, signals, progress); err != nil {
		return err
	}
	var why string // of the last installation; empty: it went well
	if err := s.property(ctx, conn, "LastError", &why); err != nil {
		return err
	}
	if why != "" {
		return fmt.Errorf("%w: %.500s", ErrRefused, why)
	}
	return nil
}

// quiet waits until RAUC installs nothing: an agent that was killed may have begun that.
func (s service) quiet(ctx context.Context) error {
	return s.listen(ctx, func(ctx context.Context, conn *dbus.Conn, signals <-chan *dbus.Signal) error {
		installing, err := s.installing(ctx, conn)
		if err != nil || !installing {
			return err
		}
		return s.completed(ctx, conn, signals, func(int, string) {})
	})
}

// listen connects, with what RAUC says by itself, for the time that do takes.
func (s service) listen(ctx context.Context, do func(ctx context.Context, conn *dbus.Conn, signals <-chan *dbus.Signal) error) error {
	return s.with(ctx, s.installTime, func(ctx context.Context, conn *dbus.Conn) error {
		signals := make(chan *dbus.Signal, 64) // the library keeps what does not fit
		conn.Signal(signals)
		limited, cancel := context.WithTimeout(ctx, s.callTime)
		defer cancel()
		for _, match := range [][]dbus.MatchOption{
			{dbus.WithMatchInterface(busIface), dbus.WithMatchMember("Completed")},
			{dbus.WithMatchInterface(busProps), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchObjectPath(busPath)},
			{dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
		} {
			if err := conn.AddMatchSignalContext(limited, match...); err != nil {
				return fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
		}
		return do(ctx, conn, signals)
	})
}

// call is call, for callTime at most.
func (s service) call(ctx context.Context, conn *dbus.Conn, method string, args []any, answer ...any) error {
	limited, cancel := context.WithTimeout(ctx, s.callTime)
	defer cancel()
	err := call(limited, conn, method, args, answer...)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return fmt.Errorf("%w: no answer within %v: %w", ErrUnavailable, s.callTime, limited.Err())
	}
	return err
}

func (s service) property(ctx context.Context, conn *dbus.Conn, name string, answer any) error {
	var v dbus.Variant
	if err := s.call(ctx, conn, busProps+".Get", []any{busIface, name}, &v); err != nil {
		return err
	}
	return v.Store(answer)
}

// installing reports whether RAUC installs something.
func (s service) installing(ctx context.Context, conn *dbus.Conn) (bool, error) {
	var operation string
	err := s.property(ctx, conn, "Operation", &operation)
	return operation != "idle", err
}

// errGone: the service ended while it was installing.
var errGone = errors.New("it has ended while it was installing")

// completed waits for the end of an installation.
func (s service) completed(ctx context.Context, conn *dbus.Conn, signals <-chan *dbus.Signal, progress func(percent int, message string)) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		ask := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case signal, ok := <-signals:
			if !ok {
				return fmt.Errorf("%w: D-Bus: connection lost", ErrUnavailable)
			}
			switch signal.Name {
			case busIface + ".Completed":
				ask = true // perhaps it is that of an earlier one
			case "org.freedesktop.DBus.NameOwnerChanged":
				var name, before, after string
				if err := dbus.Store(signal.Body, &name, &before, &after); err != nil || before != "" {
					return fmt.Errorf("%w: %w", ErrUnavailable, errGone)
				}
			case busProps + ".PropertiesChanged":
				if percent, message, ok := progressIn(signal); ok {
					progress(percent, message)
				}
			}
		case <-ticker.C:
			ask = true
		}
		if ask {
			if installing, err := s.installing(ctx, conn); err != nil || !installing {
				return err
			}
		}
	}
}

// progressIn is what a change of properties says about an installation.
func progressIn(signal *dbus.Signal) (percent int, message string, ok bool) {
	var iface string
	var changed map[string]dbus.Variant
	var gone []string
	if dbus.Store(signal.Body, &iface, &changed, &gone) != nil || iface != busIface {
		return 0, "", false
	}
	var p struct {
		Percent int32
		Message string
		Depth   int32
	}
	v, ok := changed["Progress"]
	if !ok || v.Store(&p) != nil {
		return 0, "", false
	}
	return int(p.Percent), p.Message, true
}

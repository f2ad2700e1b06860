package watchdog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Config says who watches. systemd does if it has said so in the environment of the
// process (WatchdogSec= in the unit); it need not be configured here.
type Config struct {
	// Device is a hardware watchdog, for instance /dev/watchdog. Empty: none.
	Device string `yaml:"device"`
	// Timeout is after how long without a sign of life the machine is reset; whole
	// seconds. Default 1 min. The device may know only some values.
	Timeout time.Duration `yaml:"timeout"`
}

// DefaultTimeout is Config.Timeout where it is 0.
const DefaultTimeout = time.Minute

// Validate names the key that is wrong.
func (c *Config) Validate() error {
	if c.Timeout < 0 || c.Timeout%time.Second != 0 || c.Timeout > time.Hour {
		return errors.New("timeout: must be whole seconds, at most an hour")
	}
	return nil
}

// ErrGoesOn is the cause of the end of Run's context when the process goes on, as another
// program: systemd is not told that it stops then.
var ErrGoesOn = errors.New("the process goes on as another program")

// watcher wants a sign of life every so often.
type watcher struct {
	name  string
	every time.Duration
	feed  func() error
	close func()
}

// Run tells systemd, if that wants to know, that the agent is ready, and gives signs of
// life until ctx ends. alive returns when the agent gets on. A device that cannot be
// had is no reason not to run: it is logged, and tried again.
func Run(ctx context.Context, cfg Config, alive func(), log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Error("systemd cannot be told that the agent is ready", "err", err)
	}
	var watching []chan struct{}
	watch := func(open func() (*watcher, error)) {
		done := make(chan struct{})
		watching = append(watching, done)
		go func() {
			defer close(done)
			keep(ctx, open, alive, log)
		}()
	}
	if interval, err := daemon.SdWatchdogEnabled(false); err != nil {
		log.Error("what systemd says about its watchdog makes no sense", "err", err)
	} else if interval > 0 {
		watch(func() (*watcher, error) { return systemd(interval), nil })
	}
	if cfg.Device != "" {
		watch(func() (*watcher, error) { return hardware(cfg, log) })
	}
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), ErrGoesOn) {
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) // if it does not hear it, it sees it
	}
	for _, done := range watching {
		<-done
	}
}

func systemd(interval time.Duration) *watcher {
	return &watcher{"systemd", interval / 3, func() error {
		_, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		return err
	}, func() {}}
}

// unknown is how often a watchdog is fed that does not say what its timeout is.
const unknown = time.Second

// setTimeout is for tests to fail.
var setTimeout = unix.IoctlSetPointerInt

// hardware opens a watchdog (Documentation/watchdog/watchdog-api.rst in the kernel): from
// then on it must be fed.
func hardware(cfg Config, log *slog.Logger) (*watcher, error) {
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	file, err := os.OpenFile(cfg.Device, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(file.Fd())
	w := &watcher{"hardware", timeout / 3, func() error { return unix.IoctlWatchdogKeepalive(fd) }, func() {
		// The agent ends in an orderly way: whoever starts it again, or reboots, has all
		// the time that it takes. A device with nowayout does not listen.
		_, _ = file.WriteString("V")
		_ = file.Close()
	}}
	err = setTimeout(fd, unix.WDIOC_SETTIMEOUT, int(timeout/time.Second))
	if errors.Is(err, unix.ENOTTY) {
		w.close()
		return nil, fmt.Errorf("%s: is no watchdog: %w", cfg.Device, err)
	}
	if err != nil {
		// It counts since it was opened, and one with nowayout goes on when it is closed:
		// whatever its timeout is, it is fed.
		log.Warn("watchdog keeps its own timeout", "device", cfg.Device, "wanted", timeout, "err", err)
		w.every = min(w.every, unknown)
	}
	if actual, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT); err == nil && actual > 0 {
		w.every = min(timeout, time.Duration(actual)*time.Second) / 3
	}
	return w, nil
}

// again is the pause before a watchdog is opened again that could not be.
const again = time.Minute

// keep opens a watchdog and feeds it until ctx ends.
func keep(ctx context.Context, open func() (*watcher, error), alive func(), log *slog.Logger) {
	for ctx.Err() == nil {
		w, err := open()
		if err == nil {
			log.Info("watched", "by", w.name, "sign_of_life_every", w.every)
			feed(ctx, w, alive, log)
			w.close()
			return
		}
		log.Error("watchdog cannot be opened, trying again", "err", err)
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func feed(ctx context.Context, w *watcher, alive func(), log *slog.Logger) {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		asked := make(chan struct{})
		go func() {
			defer close(asked)
			alive()
		}()
		select {
		case <-asked:
			if err := w.feed(); err != nil {
				log.Error("watchdog cannot be fed", "by", w.name, "err", err)
			}
		case <-time.After(w.every):
			log.Error("the agent does not get on; without an answer there is no sign of life", "by", w.name)
			select {
			case <-asked:
				continue
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

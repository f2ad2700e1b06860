package self

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"groundswell/agent/slot"
)

// Command is the argument by which a program is the launcher.
const Command = "launch"

// between is the pause before the next try, so that what ends at once does not use all
// of them up while something passes that has nothing to do with it.
const between = time.Second

// Launch runs the agent that is to run, in the place of this program or on trial below
// it. version is this program's; args are the directory of the slots, and what the agent
// is given. It returns when there is nothing left to do: to be the packaged agent with the arguments that it
// returns, or, where there are none, to end with the code.
func Launch(version string, args []string, log *slog.Logger) (packaged []string, code int) {
	if len(args) == 0 || args[0] == "" || args[0][0] == '-' {
		fmt.Fprintln(os.Stderr, "agent: launch DIR [ARG...]: DIR is missing")
		return nil, 2
	}
	l := Launched{Dir: args[0], Packaged: version, Args: args[1:]}
	// Whatever is wrong from here on, an agent runs.
	if dir, err := filepath.Abs(l.Dir); err == nil {
		l.Dir = dir
	}
	program, err := os.Executable()
	if err == nil {
		l.Launcher = program
	} else {
		log.Error("the launcher does not know its own program, so nothing new will be launched", "err", err)
	}
	told := make(chan os.Signal, 4)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(told)
	for {
		name, image, err := l.run(told, log)
		var ended *ended
		if !errors.As(err, &ended) {
			log.Warn("no agent in the slots is launched, the packaged one runs", "slot", name, "version", image.Version, "err", err)
			break
		}
		log.Warn("the agent has ended", "slot", name, "version", image.Version, "status", ended.status)
		if ended.told {
			return nil, ended.code
		}
		select {
		case <-told:
			return nil, 0
		case <-time.After(between):
		}
	}
	l.Slot, l.Trial, l.Boot = "", false, slot.NewBootID()
	if env, err := l.environment(); err == nil {
		err = os.Setenv(variable, env[len(variable)+1:])
		if err != nil {
			log.Error("the packaged agent cannot be told how it was launched", "err", err)
		}
	}
	return append([]string{}, l.Args...), 0
}

// ended is the end of an agent on trial, or of the launcher before it ran any.
type ended struct {
	status string
	code   int
	told   bool // the launcher was told to end
}

func (e *ended) Error() string { return e.status }

// run runs what the slots hold. It returns only when it cannot, or *ended.
func (l Launched) run(told <-chan os.Signal, log *slog.Logger) (name string, image slot.Image, err error) {
	// Anew each time: what ran meanwhile has changed what is there.
	dir, err := slot.OpenDir(l.Dir)
	if err != nil {
		return "", image, err
	}
	name, image, l.Trial, err = dir.Boot()
	if err != nil {
		return "", image, err
	}
	l.Slot, l.Boot = name, slot.NewBootID()
	log.Info("launching", "slot", name, "version", image.Version, "trial", l.Trial)
	if l.Trial {
		e, err := l.try(dir, told, log)
		if err != nil {
			// The try is counted: the next one is another, or none is left.
			e = &ended{status: err.Error()}
		}
		return name, image, e
	}
	if l.outdated(image.Version) {
		return name, image, fmt.Errorf("the packaged agent %s is newer", l.Packaged)
	}
	env, err := l.environment()
	if err != nil {
		return name, image, err
	}
	path, err := filepath.Abs(dir.Executable(name))
	if err != nil {
		return name, image, err
	}
	select {
	case <-told:
		return name, image, &ended{status: "told to end", told: true}
	default: // one that comes from here on is lost
	}
	return name, image, syscall.Exec(path, append([]string{path}, l.Args...), append(os.Environ(), env))
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"groundswell/internal/cli"

	"golang.org/x/term"
)

type rolloutWatch struct {
	ID    string        `arg:"" optional:"" help:"Rollout id. Without it: the newest rollout."`
	Every time.Duration `help:"How often to look." default:"2s"`
}

// Run redraws the waves on a terminal, and elsewhere prints a line whenever
// something changed. With -o json it prints the rollout on each change, one
// line each.
func (c *rolloutWatch) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	if c.Every < 100*time.Millisecond {
		return cli.UsageError("--every %v is less than 100ms", c.Every)
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	if c.ID == "" {
		if c.ID, err = api.newestRollout(ctx); err != nil {
			return err
		}
	}
	screen := newScreen(streams.Out)
	last := ""
	for {
		a, err := api.get(ctx, rolloutPath(c.ID), nil)
		if err != nil {
			return err
		}
		var r rollout
		if err := a.decode(&r); err != nil {
			return err
		}
		if g.Output == "json" {
			if line := string(a.raw); line != last {
				fmt.Fprintln(streams.Out, strings.TrimSpace(line))
				last = line
			}
		} else {
			screen.draw(r)
		}
		switch r.State {
		case "completed", "reverted":
			return nil
		case "paused", "cancelled", "reverting":
			return cli.Exit(exitUnwanted, fmt.Errorf("rollout %s is %s: %s", r.ID, r.State, orDash(clean(r.Reason))))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(c.Every):
		}
	}
}

// newestRollout is the id of the rollout that was created last.
func (api *client) newestRollout(ctx context.Context) (string, error) {
	a, err := api.get(ctx, "/v1/rollouts", url.Values{"limit": {"1"}})
	if err != nil {
		return "", err
	}
	var page struct {
		Items []rollout `json:"items"`
	}
	if err := a.decode(&page); err != nil {
		return "", err
	}
	if len(page.Items) == 0 {
		return "", errors.New("there is no rollout yet: see 'fleetctl rollout create --help'")
	}
	return page.Items[0].ID, nil
}

// screen shows a rollout again and again in one place.
type screen struct {
	out   io.Writer
	tty   bool
	lines int    // drawn last time
	last  string // line printed last, without a terminal
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok {
		s.tty = term.IsTerminal(int(f.Fd()))
	}
	return s
}

func (s *screen) draw(r rollout) {
	if !s.tty {
		t := r.total()
		line := fmt.Sprintf("%s %s %s: %s, waves %s, waiting %d, busy %d, committed %d, rolled back %d, failed %d, silent %d, absent %d",
			r.ID, r.Release.Name, r.Release.Version, r.State, r.progress(), t.Waiting, t.busy(), t.Committed, t.RolledBack, t.Failed, t.Silent+t.Unreached, t.Absent)
		if waits := r.waits(); waits != "" {
			line += ", " + clean(waits)
		}
		if line != s.last {
			fmt.Fprintln(s.out, line)
			s.last = line
		}
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s  %s %s  %s  %s\n", r.ID, clean(r.Release.Name), clean(r.Release.Version), r.State, clean(r.Reason))
	_ = waveTable.print(&b, r.Waves) // a buffer takes everything
	if s.lines > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA", s.lines)
	}
	for line := range strings.Lines(b.String()) {
		fmt.Fprintf(s.out, "\x1b[2K%s", line)
	}
	s.lines = strings.Count(b.String(), "\n")
}

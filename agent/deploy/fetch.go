package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/fetch"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// stopped is why a download was ended from outside.
type stopped struct{ reason string }

func (s stopped) Error() string { return s.reason }

// fetch brings metadata and bytes, while it watches whether they are still
// wanted.
func (d *Driver) fetch(ctx context.Context) (update.Event, error) {
	d.account.said() // that it begins, or goes on
	d.account.moves()
	d.unasked = d.dep.Unasked
	working, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for d.pause(working, d.clock.Now().Add(longest)) == nil {
			decision, _, _ := d.look()
			if decision.Action == decide.Stop || decision.Action == decide.None {
				cancel(stopped{decision.Reason})
				return
			}
		}
	}()
	// The world may have changed before the watch began.
	var err error
	if decision, _, _ := d.look(); decision.Action == decide.Stop {
		err = stopped{decision.Reason}
	} else {
		err = d.withinBudget(working, d.bring)
	}
	cause := context.Cause(working)
	cancel(nil)
	<-watched // it reads d.dep
	d.dep.Transfer, d.transfer = d.dep.Transfer.Plus(d.transfer), topics.Transfer{}
	d.dep.PeerFaults, d.faults = d.dep.PeerFaults.Plus(d.faults), topics.PeerFaults{}
	d.dep.Unasked = d.unasked
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	var stop stopped
	switch {
	case err == nil:
		d.dep.Downloaded = d.clock.Now().UTC()
		return update.Fetched, nil
	case errors.As(err, &stop), errors.As(cause, &stop):
		d.dep.Reason, d.dep.Detail = stop.reason, ""
		return update.Stop, nil
	case errors.Is(err, errStone):
		return d.stepBack(err), nil
	}
	d.dep.Reason, _ = reasonOf(err)
	d.dep.Detail = err.Error()
	return update.Fail, nil
}

// patience is how many rounds metadata may be refused before the attempt is
// given up. That it cannot be had at all is no reason to give up.
const patience = 5

func (d *Driver) bring(ctx context.Context) error {
	for {
		hold, err := d.heldBy(ctx, condition.Download)
		if err != nil {
			return err
		}
		if hold == nil {
			break
		}
		switch asked, whole, err := d.askPeers(ctx, hold); {
		case err != nil || whole:
			return err
		case asked:
			continue // that may have taken long
		}
		if err := d.keptBy(ctx, condition.Download, hold); err != nil {
			return err
		}
		rest := Rest{State: d.dep.State, Reason: hold.Reason, Until: hold.Until}
		if rest.Until.IsZero() {
			rest.Until = d.clock.Now().Add(hold.Again)
		}
		long := d.untilPeers(hold)
		if err := d.attention.rests(ctx, rest, func(ctx context.Context) error { return d.sleep(ctx, nil, long) }); err != nil {
			return err
		}
	}
	images, err := d.agreed(ctx)
	if err != nil {
		return err
	}
	d.nearby.another = false // a source makes it good, and what it has sent is there
	return d.download(ctx, images, d.downloads.Artifact)
}

// download brings what the entry wants, when no other component downloads.
func (d *Driver) download(ctx context.Context, images trust.Images, bring func(context.Context, fetch.Artifact, string, func(int64, topics.Transfer)) error) error {
	// Stopped when it was staged already, or provisioned in this very version.
	if _, err := d.slots.Stage(d.image()); err == nil {
		return nil
	}
	target := d.dep.Entry.Target
	path, err := d.slots.Staging(target.SHA256)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	image, _ := images.Lookup(target.Path) // eligible found it
	artifact := fetch.Artifact{Length: target.Length, SHA256: target.SHA256, Index: image.Release.Index, Deltas: d.newest().Deltas, Seed: d.seed(), Waits: d.account.stands}
	return d.aloud(ctx, func() error {
		d.account.stands(errTurn)
		return d.device.fetch(ctx, func(ctx context.Context, progress func(int64)) error {
			d.account.moves()
			defer func() {
				if context.Cause(ctx) == errStalled { // it gives up its turn, and waits for the next
					d.account.stands(errTurn)
				}
			}()
			defer d.cfg.Allowance.Begin(ctx, d.newest().DownloadWindows)()
			var transfer topics.Transfer
			err := bring(ctx, artifact, path, func(have int64, t topics.Transfer) {
				transfer = t
				progress(have)
				d.account.moves()
			})
			d.transfer = d.transfer.Plus(transfer)
			if d.cfg.Peers != nil { // while nobody else downloads: they may be of anybody
				d.faults = d.faults.Plus(d.cfg.Peers.Faults())
			}
			return err
		})
	})
}

// agreed brings the list of releases, once this device may run the entry's by it. Peers are
// asked for it only where no source says anything.
func (d *Driver) agreed(ctx context.Context) (images trust.Images, err error) {
	for round, refused := 1, 0; ; round++ {
		change := d.device.change() // before the look
		err := d.aloud(ctx, func() (err error) {
			if images, err = d.images(ctx); err == nil || ctx.Err() != nil || !unanswered(err) || !d.near() {
				return err
			}
			d.account.stands(err)
			if offered, errPeers := d.offered(ctx); errPeers == nil {
				images, err = offered, nil
			}
			return err
		})
		if err == nil {
			err = d.eligible(images)
		}
		if err == nil {
			return images, nil
		}
		if errors.Is(err, errComing) {
			if err := d.tell(ctx, condition.Download, &condition.Hold{Reason: reasonRequires, Detail: err.Error(), Again: longest}); err != nil {
				return images, err
			}
			if err := d.sleep(ctx, change, longest); err != nil {
				return images, err
			}
			round = 0
			continue
		}
		reason, final := reasonOf(err)
		if reason == reasonMetadata {
			refused++
		}
		if final || refused >= patience || ctx.Err() != nil {
			return images, err
		}
		d.log.Warn("metadata cannot be had yet", "rollout", d.dep.Entry.Rollout, "round", round, "err", err)
		d.account.stands(err)
		if err := d.aloud(ctx, func() error { return d.downloads.Pause(ctx, round) }); err != nil {
			return images, err
		}
	}
}

// newest is the entry as it is by now: since the attempt began more deltas may have been
// made, and the windows changed.
func (d *Driver) newest() topics.Entry {
	decision, _, _ := d.look()
	if e := decision.Entry; e.Rollout == d.dep.Entry.Rollout && e.Target == d.dep.Entry.Target {
		return e
	}
	return d.dep.Entry
}

// seed is what runs, for what the artifact has in common with it; nil: that is not known,
// or cannot be read.
func (d *Driver) seed() *fetch.Seed {
	slots, ok := d.slots.(interface{ Contents() (slot.Contents, bool) })
	if !ok {
		return nil
	}
	contents, ok := slots.Contents()
	if !ok {
		return nil
	}
	return &fetch.Seed{SHA256: contents.Image.SHA256, Length: contents.Image.Length, Open: func() (fetch.ReadAtCloser, error) { return contents.Open() }}
}

// sleep waits for a change, or so long.
func (d *Driver) sleep(ctx context.Context, change <-chan struct{}, long time.Duration) error {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-change:
	case <-timer.C:
	}
	return nil
}

// eligible is whether both repositories agree that this device may run the
// release, and whether it has what the release requires.
func (d *Driver) eligible(images trust.Images) error {
	facts := trust.Facts{Model: d.cfg.Model, Hardware: d.cfg.Hardware}
	// First, so that a floor is remembered also when nothing comes of this entry.
	floor, err := d.releases.Floor(images, d.dep.Entry.Component, facts)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	if err := images.Eligible(d.dep.Entry, facts); err != nil {
		return err
	}
	if floor != "" {
		if order, err := topics.CompareVersions(d.dep.Entry.Version, floor); err != nil || order < 0 {
			return fmt.Errorf("%w: %s is below %s", trust.ErrSecurityFloor, d.dep.Entry.Version, floor)
		}
	}
	image, _ := images.Lookup(d.dep.Entry.Target.Path) // Eligible found it
	return d.device.check(d.cfg.Component, image.Release.Requires)
}

// stepBack ends an attempt whose release the device cannot take yet. That is no failure,
// and costs no attempt: the rollout takes no part until something else runs, and others
// that lead there get their turn.
func (d *Driver) stepBack(err error) update.Event {
	d.dep.Reason, d.dep.Detail = decide.ReasonStone, err.Error()
	d.stones.put(d.dep.Entry.Rollout, version(d.slots))
	return update.Stop
}

// stones are what ran when the release of a rollout required something else of its own
// component, by rollout. It is safe for concurrent use.
type stones struct {
	mu   sync.Mutex // guards what follows; no other lock is taken under it
	runs map[string]string
}

func (s *stones) put(rollout, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs == nil {
		s.runs = map[string]string{}
	}
	s.runs[rollout] = version
}

// ahead are the rollouts that a device that runs version still has to pass a stone for.
func (s *stones) ahead(version string) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ahead := map[string]bool{}
	for rollout, runs := range s.runs {
		if runs == version {
			ahead[rollout] = true
		} else {
			delete(s.runs, rollout)
		}
	}
	return ahead
}

var errDisk = errors.New("disk")

const (
	reasonBusy     = "busy"
	reasonFetch    = "fetch"
	reasonMetadata = "metadata"
	reasonRequires = "requires"
)

// reasonOf is the slug for an error, and whether trying again is pointless.
func reasonOf(err error) (slug string, final bool) {
	for _, known := range []struct {
		sentinel error
		slug     string
		final    bool
	}{
		{trust.ErrUnknownTarget, "unknown-target", true},
		{trust.ErrMismatch, "mismatch", true},
		{trust.ErrHardware, "hardware", true},
		{trust.ErrSecurityFloor, "security-floor", true},
		{errRequires, reasonRequires, true},
		{errComing, reasonRequires, false},
		{errStone, decide.ReasonStone, true},
		{errTurn, reasonComponent, false},
		{slot.ErrInstaller, "installer", true},
		{slot.ErrUnavailable, "installer", true},
		{fetch.ErrWrongBytes, "wrong-bytes", true},
		{slot.ErrArtifact, "artifact", true},
		{trust.ErrLength, "length", true},
		{trust.ErrDigest, "digest", true},
		{trust.ErrSchema, "schema", true},
		{syscall.ENOSPC, "disk-full", true},
		{syscall.EDQUOT, "disk-full", true},
		{errDisk, "disk", true},
		{syscall.EROFS, "disk", true},
		{syscall.EIO, "disk", true},
		{trust.ErrSignature, reasonMetadata, false},
		{trust.ErrThreshold, reasonMetadata, false},
		{trust.ErrExpired, reasonMetadata, false},
		{trust.ErrMalformed, reasonMetadata, false},
		{trust.ErrPin, reasonMetadata, false},
		{trust.ErrVersionRollback, reasonMetadata, false},
		{trust.ErrVersionGap, reasonMetadata, false},
		{trust.ErrVanished, reasonMetadata, false},
		{trust.ErrTrustDomain, reasonMetadata, false},
		{trust.ErrKind, reasonMetadata, false},
		{trust.ErrKey, reasonMetadata, false},
		{trust.ErrTooLarge, reasonMetadata, false},
		{fetch.ErrTooLarge, reasonMetadata, false},
	} {
		if errors.Is(err, known.sentinel) {
			return known.slug, known.final
		}
	}
	if errors.As(err, new(fetch.Busy)) {
		return reasonBusy, false
	}
	return reasonFetch, false
}

// unanswered reports whether metadata could not be had because no source has given any. What
// one has sent counts also where it was refused or could not be kept: a root that the device
// cannot take may withdraw the keys that it would go on with.
func unanswered(err error) bool {
	slug, _ := reasonOf(err)
	return (slug == reasonFetch || slug == reasonBusy) && !errors.Is(err, fetch.ErrRefused)
}

func (d *Driver) image() slot.Image {
	e := d.dep.Entry
	return slot.Image{Version: e.Version, Release: e.Release, SHA256: e.Target.SHA256, Length: e.Target.Length}
}

// askings is how often what installs is asked that does not answer.
const askings = 5

// patiently does again, after a pause, what could not be asked for.
func (d *Driver) patiently(ctx context.Context, what string, do func() error) error {
	for n := 1; ; n++ {
		err := do()
		if !errors.Is(err, slot.ErrUnavailable) || n == askings {
			return err
		}
		d.log.Warn("cannot go on, asking again", "what", what, "rollout", d.dep.Entry.Rollout, "err", err)
		if err := d.downloads.Pause(ctx, n); err != nil {
			return err
		}
	}
}

// place puts the bytes into the idle slot.
func (d *Driver) place(ctx context.Context) (update.Event, error) {
	var name string
	err := d.patiently(ctx, "place", func() (err error) {
		name, err = d.slots.Stage(d.image())
		return err
	})
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	switch {
	case err == nil:
		d.dep.Slot = name
		return update.Placed, nil
	case errors.Is(err, slot.ErrNotStaged):
		d.log.Warn("what was downloaded is not whole any more", "err", err)
		return update.Lost, nil
	}
	d.dep.Reason, _ = reasonOf(fmt.Errorf("%w: %w", errDisk, err))
	d.dep.Detail = err.Error()
	return update.Fail, nil
}

package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/disk"
	"groundswell/agent/fetch"
	"groundswell/agent/journal"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// Source brings unverified metadata, from one server after the other until what
// one sent is accepted. fetch.ErrNotFound means that none has it, fetch.ErrUnsure
// that one has it not and the others did not say.
type Source interface {
	Root(ctx context.Context, repo trust.Repository, version int64, accept func([]byte) error) error
	lists
}

// lists brings what is named by its digest.
type lists interface {
	Snapshot(ctx context.Context, pin topics.SnapshotPin, accept func([]byte) error) error
	Targets(ctx context.Context, pin trust.TargetsPin, accept func([]byte) error) error
}

// Roots are what the device was provisioned with, in case it has nothing newer.
type Roots struct{ Image, Director []byte }

// Verifier is safe for concurrent use.
type Verifier struct {
	device string
	built  time.Time
	clock  *clock.Clock
	source Source
	log    *slog.Logger
	roots  chan struct{}

	mu        sync.Mutex // guards what follows; never held while fetching
	file      *journal.File
	state     trust.State
	documents map[string][]byte // of state; nil: it was not looked yet
	floors    *floors
}

// Open reads the state from dir, or begins with the provisioned roots when
// there is none or it is damaged. It raises the clock's floor to what was
// verified; built is the floor that remains when a root takes that back.
func Open(dir, trustDomain, device string, roots Roots, clk *clock.Clock, built time.Time, source Source, log *slog.Logger) (*Verifier, error) {
	return OpenOn(disk.OS, dir, trustDomain, device, roots, clk, built, source, log)
}

// OpenOn is Open on another file system than the machine's.
func OpenOn(on disk.FS, dir, trustDomain, device string, roots Roots, clk *clock.Clock, built time.Time, source Source, log *slog.Logger) (*Verifier, error) {
	v := &Verifier{
		device: device, built: built, clock: clk, source: source, log: log,
		roots: make(chan struct{}, 1), file: journal.NewFileOn(on, filepath.Join(dir, "trust")),
		floors: openFloors(on, dir, log),
	}
	raw, older, err := v.file.Load()
	if err == nil {
		v.state, err = trust.ParseState(raw)
	}
	switch {
	case err == nil:
		if older {
			log.Warn("the newest trust state was damaged, the one before it is used")
		}
		if v.state.TrustDomain != trustDomain {
			return nil, fmt.Errorf("open trust: it is for %q, the certificate for %q", v.state.TrustDomain, trustDomain)
		}
	default:
		if !errors.Is(err, os.ErrNotExist) {
			log.Error("trust state is damaged: trust begins anew with the provisioned roots", "err", err)
		}
		if v.state, err = trust.NewState(trustDomain, roots.Image, roots.Director); err != nil {
			return nil, fmt.Errorf("open trust: %w", err)
		}
	}
	clk.Raise(v.state.Floor())
	return v, nil
}

// apply runs one verification, and keeps its state if it accepted something.
func (v *Verifier) apply(verify func(trust.State, time.Time) (trust.State, error)) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next, err := verify(v.state, v.clock.Now())
	if err != nil {
		return err
	}
	return v.keep(next)
}

// keep writes the state down, if it is another, and then uses it. Caller holds
// mu.
func (v *Verifier) keep(next trust.State) error {
	if reflect.DeepEqual(next, v.state) {
		return nil
	}
	raw, err := json.Marshal(next)
	if err == nil {
		err = v.file.Save(raw)
	}
	if err != nil {
		return fmt.Errorf("keep trust: %w", err)
	}
	if next.Floor().Before(v.state.Floor()) {
		v.clock.Reset(v.built) // the key that signed the floor was withdrawn
	}
	v.state, v.documents = next, nil
	v.clock.Raise(next.Floor())
	return nil
}

// Assignment verifies what arrived on the topic of the device's assignment.
func (v *Verifier) Assignment(raw []byte) (a topics.Assignment, err error) {
	err = v.apply(func(s trust.State, now time.Time) (next trust.State, err error) {
		next, a, err = s.Assignment(raw, v.device, now)
		return next, err
	})
	return a, err
}

// Manifest verifies what arrived on the topic of a cohort's manifest.
func (v *Verifier) Manifest(raw []byte, cohort string) (m topics.Manifest, err error) {
	err = v.apply(func(s trust.State, now time.Time) (next trust.State, err error) {
		next, m, err = s.Manifest(raw, cohort, now)
		return next, err
	})
	return m, err
}

// Until is until when an assignment or manifest may be acted upon that was
// verified under the roots of now: its own expiry, or that of the director's
// root, which nothing outlives.
func (v *Verifier) Until(raw []byte) (time.Time, error) {
	v.mu.Lock()
	root := v.state.DirectorRoot
	v.mu.Unlock()
	of, err := expiry(raw)
	if err != nil {
		return time.Time{}, err
	}
	above, err := expiry(root)
	if err != nil {
		return time.Time{}, err
	}
	if above.Before(of) {
		return above, nil
	}
	return of, nil
}

// expiry reads when metadata expires. Decoding into a struct would take
// "Signed" for "signed", and only the latter is what was verified.
func expiry(raw []byte) (time.Time, error) {
	var outer, signed map[string]json.RawMessage
	var at time.Time
	err := json.Unmarshal(raw, &outer)
	if err == nil {
		err = json.Unmarshal(outer["signed"], &signed)
	}
	if err == nil {
		err = json.Unmarshal(signed["expires"], &at)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: expiry: %w", trust.ErrMalformed, err)
	}
	return at, nil
}

// Command verifies what arrived on the topic of the device's commands, and has
// it obeyed unless it is a repetition. The command counts as obeyed only once
// obey has returned nil, so it must be safe to repeat.
func (v *Verifier) Command(raw []byte, obey func(topics.Command) error) error {
	return v.apply(func(s trust.State, now time.Time) (trust.State, error) {
		next, c, err := s.Command(raw, v.device, now)
		if err != nil || next.CommandVersion() == s.CommandVersion() {
			return next, err
		}
		return next, obey(c)
	})
}

// Curable reports whether a refusal may be due to a root that is not known
// here yet.
func Curable(err error) bool {
	return errors.Is(err, trust.ErrSignature) || errors.Is(err, trust.ErrThreshold) || errors.Is(err, trust.ErrExpired)
}

// RootsChanged gets a value after a newer root was accepted: what was refused
// may verify now, and what was accepted may no longer. One reader.
func (v *Verifier) RootsChanged() <-chan struct{} { return v.roots }

// maxRoots bounds a walk: more than any device will sleep through.
const maxRoots = 1024

// WalkRoots looks for newer roots of both repositories and takes them one by
// one. The newest is the one after which no source has another. fetch.ErrUnsure means that
// for each repository at least one source says so, and not all do.
func (v *Verifier) WalkRoots(ctx context.Context) error {
	var unsure error
	for _, repo := range []trust.Repository{trust.Director, trust.Image} {
		_, err := v.walk(ctx, repo)
		if errors.Is(err, fetch.ErrUnsure) {
			unsure = errors.Join(unsure, err) // the other repository is another question
			continue
		}
		if err != nil {
			return err
		}
	}
	return unsure
}

// ImageRoots is WalkRoots for the image repository alone, and says how many it took, also
// beside an error. Unless there are newer roots that is one short question to each source: who
// sends what is no next root is read once, at most trust.MaxRoot bytes.
func (v *Verifier) ImageRoots(ctx context.Context) (taken int, err error) {
	return v.walk(ctx, trust.Image)
}

// walk is WalkRoots for one repository.
func (v *Verifier) walk(ctx context.Context, repo trust.Repository) (taken int, err error) {
	defer func() {
		if taken > 0 {
			select {
			case v.roots <- struct{}{}:
			default: // one reminder is enough
			}
		}
	}()
	for range maxRoots {
		v.mu.Lock()
		next := v.state.RootVersion(repo) + 1
		v.mu.Unlock()
		err := v.source.Root(ctx, repo, next, func(raw []byte) error {
			return v.apply(func(s trust.State, _ time.Time) (trust.State, error) {
				after, err := s.Root(repo, raw)
				if err == nil && after.RootVersion(repo) != next {
					// The one in force is accepted again, and leads nowhere.
					return s, fmt.Errorf("%w: the source sent version %d", trust.ErrVersionGap, after.RootVersion(repo))
				}
				return after, err
			})
		})
		if errors.Is(err, fetch.ErrNotFound) {
			return taken, nil
		}
		if err != nil {
			return taken, fmt.Errorf("%s root %d: %w", repo, next, err)
		}
		taken++
		v.log.Info("root accepted", "repository", string(repo), "version", next)
	}
	return taken, nil
}

// Images brings the list of releases that a manifest pins: newer roots first,
// then, unless they are held, the snapshot and the targets. One source that
// knows of no newer root is enough to go on: whoever controls the others could
// say the same, and must not hold up the device by saying nothing.
func (v *Verifier) Images(ctx context.Context, pin topics.SnapshotPin) (trust.Images, error) {
	if err := v.WalkRoots(ctx); errors.Is(err, fetch.ErrUnsure) {
		v.log.Warn("not every source could be asked for newer roots", "err", err)
	} else if err != nil {
		return trust.Images{}, err
	}
	return v.listed(ctx, pin, v.source)
}

// ErrUnsigned: a snapshot or a list of releases is the one that is pinned, and the keys of the
// newest root that is held did not sign it: a root has withdrawn those that did, or is not
// known yet that brings them.
var ErrUnsigned = errors.New("by the newest root that is held, what lists the release is not signed")

// listed is the list of releases that a manifest pins, as it is held or comes from a source.
func (v *Verifier) listed(ctx context.Context, pin topics.SnapshotPin, from lists) (trust.Images, error) {
	v.mu.Lock()
	needed := v.state.NeedsSnapshot(pin)
	v.mu.Unlock()
	if needed {
		err := v.fetchImages(ctx, pin, from)
		if errors.Is(err, trust.ErrSignature) || errors.Is(err, trust.ErrThreshold) {
			return trust.Images{}, fmt.Errorf("%w: %w", ErrUnsigned, err)
		}
		if err != nil {
			return trust.Images{}, err
		}
	}
	return v.Held()
}

// fetchImages takes the snapshot and the targets that it names, or neither: who gives the one
// need not have the other, and with a snapshot alone the list that is held would be none.
func (v *Verifier) fetchImages(ctx context.Context, pin topics.SnapshotPin, from lists) error {
	var snapshot []byte
	var names trust.TargetsPin
	err := from.Snapshot(ctx, pin, func(raw []byte) (err error) {
		v.mu.Lock()
		s := v.state
		v.mu.Unlock()
		_, names, err = s.Snapshot(raw, pin, v.clock.Now())
		snapshot = raw
		return err
	})
	if err != nil {
		return err
	}
	return from.Targets(ctx, names, func(raw []byte) error {
		return v.apply(func(s trust.State, now time.Time) (trust.State, error) {
			if !s.NeedsSnapshot(pin) {
				return s, nil // somebody has brought it, or a newer one, meanwhile
			}
			next, _, err := s.Snapshot(snapshot, pin, now) // again: much may have come meanwhile
			if err == nil {
				next, _, err = next.Targets(raw, now)
			}
			return next, err
		})
	})
}

// Held is the list of releases that is held, verified again as of now.
func (v *Verifier) Held() (trust.Images, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state.Images(v.clock.Now())
}

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

func isNotFound(err error) bool { return errors.Is(err, fleet.ErrNotFound) }

// move is one guarded transition of a rollout and what belongs to it.
type move struct {
	by       fleet.Actor
	id       string
	revision int64
	from     []fleet.State // of those that fleet allows; nil: all
	to       fleet.State
	action   string
	reason   string
	// keeps: the rollout keeps the reason that it has; this one is for the
	// audit trail.
	keeps bool
	set   string // further columns of the guarded UPDATE
	// then does what the transition brings with it, with the rollout as it is
	// now, before manifests are signed.
	then func(ctx context.Context, tx pgx.Tx, r fleet.Rollout, now time.Time) error
	// lease fences the driver's moves.
	lease *Lease
}

// transition does a move: the guarded UPDATE, what comes with it, the manifests
// of its cohorts, the audit row.
func (s *Store) transition(ctx context.Context, m move) (r fleet.Rollout, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		if m.lease != nil {
			if err := fence(ctx, tx, *m.lease); err != nil {
				return err
			}
		}
		r, err = s.transitionIn(ctx, tx, m)
		return err
	})
	return r, err
}

func (s *Store) transitionIn(ctx context.Context, tx pgx.Tx, m move) (r fleet.Rollout, err error) {
	before := m.from
	if before == nil {
		before = fleet.Before(m.to)
	}
	set := "state = $3, revision = revision + 1, reason = CASE WHEN $6 THEN reason ELSE $4 END"
	if m.set != "" {
		set += ", " + m.set
	}
	tag, err := tx.Exec(ctx, `UPDATE rollout SET `+set+` WHERE id = $1 AND revision = $2 AND state = ANY($5)`,
		m.id, m.revision, string(m.to), m.reason, states(before), m.keeps)
	if err != nil {
		return r, fmt.Errorf("%s %s: %w", m.action, m.id, err)
	}
	if tag.RowsAffected() == 0 {
		return r, refusal(ctx, tx, m.id, m.revision, func(r fleet.Rollout) error {
			if r.State == fleet.Reverting && m.to == fleet.Cancelled {
				return fmt.Errorf("%s %s: %w: it is reverting; cancel the rollout that reverts it", m.action, m.id, fleet.ErrTransition)
			}
			return fmt.Errorf("%s %s: %w: it is %s", m.action, m.id, fleet.ErrTransition, r.State)
		})
	}
	if r, err = readRollout(ctx, tx, m.id); err != nil {
		return r, err
	}
	now, err := txNow(ctx, tx)
	if err != nil {
		return r, err
	}
	if m.then != nil {
		if err := m.then(ctx, tx, r, now); err != nil {
			return r, err
		}
	}
	if r, err = readRollout(ctx, tx, m.id); err != nil {
		return r, err
	}
	detail := map[string]any{"state": r.State}
	if m.reason != "" {
		detail["reason"] = m.reason
	}
	if w, ok := r.Current(); ok {
		detail["wave"], detail["threshold"] = w.Index, w.Threshold
	}
	if err := record(ctx, tx, m.by, m.action, "rollout/"+m.id, m.revision, r.Revision, detail); err != nil {
		return r, err
	}
	if r.State != fleet.Scheduled {
		if err := s.signManifests(ctx, tx, r.AllCohorts()); err != nil {
			return r, err
		}
	}
	if !r.State.Active() {
		if err := s.letGo(ctx, tx, r.AllCohorts()); err != nil {
			return r, err
		}
	}
	return r, nil
}

func states(in []fleet.State) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

// StartRollout starts a draft, or schedules it when its StartAt lies ahead. A
// scheduled rollout starts at once. reason is for people. What was checked when
// the draft was made is checked again: ErrConflict when it no longer holds.
func (s *Store) StartRollout(ctx context.Context, by fleet.Actor, id string, revision int64, reason string) (fleet.Rollout, error) {
	if err := checkReason(reason); err != nil {
		return fleet.Rollout{}, err
	}
	draft, err := readRollout(ctx, s.pool, id)
	if err != nil {
		return draft, err
	}
	now, err := s.Now(ctx)
	if err != nil {
		return draft, err
	}
	if draft.State == fleet.Draft && draft.StartAt.After(now) {
		return s.transition(ctx, move{by: by, id: id, revision: revision, to: fleet.Scheduled, action: "rollout.schedule", reason: reason, then: s.recheck})
	}
	return s.transition(ctx, s.starting(by, id, revision, reason))
}

func (s *Store) starting(by fleet.Actor, id string, revision int64, reason string) move {
	return move{by: by, id: id, revision: revision, from: []fleet.State{fleet.Draft, fleet.Scheduled}, to: fleet.Running,
		action: "rollout.start", reason: reason, set: "started_at = clock_timestamp(), deltas_at = NULL",
		then: func(ctx context.Context, tx pgx.Tx, r fleet.Rollout, now time.Time) error {
			if err := s.recheck(ctx, tx, r, now); err != nil {
				return err
			}
			if wait, err := s.waitForDeltas(ctx, tx, r, now); err != nil || wait != nil {
				return err // the driver opens the first wave
			}
			return openNext(ctx, tx, r, now)
		}}
}

// recheck does again what was checked when the rollout was made: devices come
// and go, and floors rise.
func (s *Store) recheck(ctx context.Context, tx pgx.Tx, r fleet.Rollout, _ time.Time) error {
	if r.Kind == topics.EntryRevert {
		return nil // it starts as it is made
	}
	_, err := s.checkRollout(ctx, tx, r.RolloutSpec)
	if errors.Is(err, fleet.ErrInvalid) {
		return fmt.Errorf("%w: rollout %s cannot start any more: %v", fleet.ErrConflict, r.ID, err)
	}
	return err
}

// StartScheduled starts a scheduled rollout whose time has come. One that can
// not start any more is cancelled, with the reason, and that is an alert: to
// try again and again would start it when nobody expects that. It is the
// driver's.
func (s *Store) StartScheduled(ctx context.Context, l Lease, id string, revision int64) (fleet.Rollout, error) {
	by := fleet.Actor{Name: l.Name}
	m := s.starting(by, id, revision, "")
	m.lease, m.keeps = &l, true
	r, err := s.transition(ctx, m)
	if !errors.Is(err, fleet.ErrConflict) {
		return r, err
	}
	reason := storable(err.Error())
	return s.transition(ctx, move{by: by, id: id, revision: revision, from: []fleet.State{fleet.Scheduled}, to: fleet.Cancelled, lease: &l,
		action: "rollout.cancel", reason: reason, set: "finished_at = clock_timestamp()",
		then: func(ctx context.Context, tx pgx.Tx, _ fleet.Rollout, _ time.Time) error {
			return raise(ctx, tx, "not-started", "rollout/"+id, reason)
		}})
}

// PauseRollout stops a running rollout, or a completed one for the devices
// that are late: who has not begun does not begin, and none activates. reason is for people.
func (s *Store) PauseRollout(ctx context.Context, by fleet.Actor, id string, revision int64, reason string) (fleet.Rollout, error) {
	if err := checkReason(reason); err != nil {
		return fleet.Rollout{}, err
	}
	return s.transition(ctx, pausing(by, id, revision, reason))
}

func checkReason(reason string) error {
	return fleet.CheckText("/reason", reason)
}

func pausing(by fleet.Actor, id string, revision int64, reason string) move {
	return move{by: by, id: id, revision: revision, to: fleet.Paused, action: "rollout.pause", reason: reason, set: "paused_at = clock_timestamp(), finished_at = NULL"}
}

// HaltRollout is PauseRollout by the driver, because a breaker tripped.
func (s *Store) HaltRollout(ctx context.Context, l Lease, id string, revision int64, reason string) (fleet.Rollout, error) {
	m := pausing(fleet.Actor{Name: l.Name}, id, revision, reason)
	m.action, m.lease = "rollout.breaker", &l
	return s.transition(ctx, m)
}

// ResumeRollout lets a paused rollout go on. Devices of the open wave that have
// not begun are spread anew over the time that was left; its soak time begins
// again, and breakers look no further back than now. reason is for people.
func (s *Store) ResumeRollout(ctx context.Context, by fleet.Actor, id string, revision int64, reason string) (fleet.Rollout, error) {
	if err := checkReason(reason); err != nil {
		return fleet.Rollout{}, err
	}
	return s.transition(ctx, move{by: by, id: id, revision: revision, from: []fleet.State{fleet.Paused}, to: fleet.Running, action: "rollout.resume", reason: reason,
		set: "resumed_at = clock_timestamp()",
		then: func(ctx context.Context, tx pgx.Tx, r fleet.Rollout, now time.Time) error {
			w, ok := r.Current()
			if !ok {
				return nil
			}
			opens, spread := w.Respread(r.PausedAt, now)
			_, err := tx.Exec(ctx, `
				UPDATE rollout_wave SET opens_at = $3, spread_seconds = $4, sample_at = NULL WHERE rollout = $1 AND index = $2`,
				r.ID, w.Index, opens, spread.Seconds())
			return err
		}})
}

// CancelRollout ends a rollout; its entry leaves the manifests. When it is a
// revert, the rollout that it was to revert is cancelled too. One that is being
// reverted cannot be cancelled by itself: its revert would go on.
func (s *Store) CancelRollout(ctx context.Context, by fleet.Actor, id string, revision int64, reason string) (fleet.Rollout, error) {
	if err := checkReason(reason); err != nil {
		return fleet.Rollout{}, err
	}
	from := slices.DeleteFunc(fleet.Before(fleet.Cancelled), func(s fleet.State) bool { return s == fleet.Reverting })
	return s.transition(ctx, move{by: by, id: id, revision: revision, from: from, to: fleet.Cancelled, action: "rollout.cancel", reason: reason,
		set: "finished_at = clock_timestamp()",
		then: func(ctx context.Context, tx pgx.Tx, r fleet.Rollout, _ time.Time) error {
			return settleReverted(ctx, tx, by, r, fleet.Cancelled)
		}})
}

// CompleteRollout ends a rollout well. It is the driver's.
func (s *Store) CompleteRollout(ctx context.Context, l Lease, id string, revision int64, reason string) (fleet.Rollout, error) {
	by := fleet.Actor{Name: l.Name}
	return s.transition(ctx, move{by: by, id: id, revision: revision, to: fleet.Completed, action: "rollout.complete", reason: reason, lease: &l,
		set: "finished_at = clock_timestamp()",
		then: func(ctx context.Context, tx pgx.Tx, r fleet.Rollout, _ time.Time) error {
			_, err := tx.Exec(ctx, `
				UPDATE rollout_wave SET state = 'passed', closed_at = clock_timestamp() WHERE rollout = $1 AND state = 'open'`, r.ID)
			if err != nil {
				return fmt.Errorf("close waves of %s: %w", r.ID, err)
			}
			return settleReverted(ctx, tx, by, r, fleet.Reverted)
		}})
}

// settleReverted moves the rollout that r reverts, if r is a revert, out of
// reverting.
func settleReverted(ctx context.Context, tx pgx.Tx, by fleet.Actor, r fleet.Rollout, to fleet.State) error {
	if r.RevertOf == "" {
		return nil
	}
	var revision int64
	reason := "reverted by " + r.ID
	if to == fleet.Cancelled {
		reason = r.ID + ", which was to revert it, was cancelled"
	}
	err := tx.QueryRow(ctx, `
		UPDATE rollout SET state = $2, revision = revision + 1, reason = $3, finished_at = clock_timestamp()
		WHERE id = $1 AND state = 'reverting' RETURNING revision`, r.RevertOf, string(to), reason).Scan(&revision)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("settle rollout %s: %w", r.RevertOf, err)
	}
	return record(ctx, tx, by, "rollout."+string(to), "rollout/"+r.RevertOf, revision-1, revision, map[string]any{"state": to, "by": r.ID, "reason": reason})
}

// OpenNextWave closes the open wave and opens the next. It is the driver's.
func (s *Store) OpenNextWave(ctx context.Context, l Lease, id string, revision int64, reason string) (fleet.Rollout, error) {
	m := move{by: fleet.Actor{Name: l.Name}, id: id, revision: revision, from: []fleet.State{fleet.Running}, to: fleet.Running,
		action: "rollout.wave", reason: reason, keeps: true, then: openNext, lease: &l}
	return s.transition(ctx, m)
}

// WidenWave opens the open wave, which had no devices, anew for those that are
// there now. It is the driver's.
func (s *Store) WidenWave(ctx context.Context, l Lease, id string, revision int64, reason string) (fleet.Rollout, error) {
	m := move{by: fleet.Actor{Name: l.Name}, id: id, revision: revision, from: []fleet.State{fleet.Running}, to: fleet.Running,
		action: "rollout.wave", reason: reason, keeps: true, then: widen, lease: &l}
	return s.transition(ctx, m)
}

// Observe stores what the driver counted in the open wave, and that its gate
// has its sample. Nothing that devices see changes, so the revision stays.
func (s *Store) Observe(ctx context.Context, l Lease, id string, wave int, members int64, sampled bool) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		if err := fence(ctx, tx, l); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			UPDATE rollout_wave SET members = $3, sample_at = CASE WHEN $4 THEN coalesce(sample_at, clock_timestamp()) ELSE sample_at END
			WHERE rollout = $1 AND index = $2 AND state = 'open'`, id, wave, members, sampled)
		if err != nil {
			return fmt.Errorf("observe rollout %s: %w", id, err)
		}
		return nil
	})
}

// RevertSpec says how to revert.
type RevertSpec struct {
	To string // version of the same release
	// IgnoreWindows: devices go back at once, also outside maintenance
	// windows. Otherwise those of the reverted rollout hold.
	IgnoreWindows bool
	// Policy nil: the defaults for a revert.
	Policy *fleet.PolicySpec
	Note   string
}

// RevertRollout brings the devices that run a rollout's version back to an
// older release: it makes a rollout of kind revert, and starts it. The reverted
// rollout's entry leaves the manifests.
func (s *Store) RevertRollout(ctx context.Context, by fleet.Actor, id string, revision int64, spec RevertSpec) (r fleet.Rollout, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		revert := fleet.NewRolloutID()
		earlier, err := claimKey(ctx, tx, by, revert)
		if err != nil {
			return err
		}
		if earlier != "" {
			r, err = readRollout(ctx, tx, earlier)
			return err
		}
		bad, err := s.transitionIn(ctx, tx, move{by: by, id: id, revision: revision, to: fleet.Reverting, action: "rollout.revert", reason: "reverted to " + spec.To})
		if err != nil {
			return err
		}
		back, err := s.revertOf(ctx, tx, bad, spec)
		if err != nil {
			return err
		}
		back.ID, back.CreatedBy = revert, by.Name
		if err := insertRollout(ctx, tx, back); err != nil {
			return err
		}
		if err := record(ctx, tx, by, "rollout.create", "rollout/"+revert, 0, 1, map[string]any{"release": back.Release, "version": back.Version, "revert_of": id}); err != nil {
			return err
		}
		r, err = s.transitionIn(ctx, tx, s.starting(by, revert, 1, spec.Note))
		return err
	})
	return r, err
}

// revertOf lays out the rollout that undoes bad.
func (s *Store) revertOf(ctx context.Context, tx pgx.Tx, bad fleet.Rollout, spec RevertSpec) (r fleet.Rollout, err error) {
	if err := fleet.CheckText("/note", spec.Note); err != nil {
		return r, err
	}
	if err := topics.CheckVersion("to", spec.To); err != nil {
		return r, fleet.Invalid("/to", "%q is not a version", spec.To)
	}
	if bad.Kind == topics.EntryRevert {
		return r, fmt.Errorf("rollout %s is itself a revert: %w", bad.ID, fleet.ErrTransition)
	}
	if order, err := topics.CompareVersions(spec.To, bad.Version); err != nil || order >= 0 {
		return r, fleet.Invalid("/to", "%s is not older than %s", spec.To, bad.Version)
	}
	release, err := readRelease(ctx, tx, bad.Release, spec.To)
	if isNotFound(err) {
		return r, fleet.Invalid("/to", "there is no release %s %s", bad.Release, spec.To)
	}
	if err != nil {
		return r, err
	}
	if err := checkFloor(ctx, tx, release, "/to"); err != nil {
		return r, err
	}
	given := fleet.PolicySpec{}
	if spec.Policy != nil {
		given = *spec.Policy
	}
	policy, err := given.Resolve(topics.EntryRevert)
	if err != nil {
		return r, err
	}
	if given.Windows == nil && !spec.IgnoreWindows {
		policy.Windows = bad.Policy.Windows
	}
	if given.DownloadWindows == nil && !spec.IgnoreWindows {
		policy.DownloadWindows = bad.Policy.DownloadWindows
	}
	// It must win over whatever else devices of these cohorts are told.
	priority := bad.Priority
	err = tx.QueryRow(ctx, `
		SELECT greatest($3, max(r.priority)) FROM rollout r JOIN rollout_cohort rc ON rc.rollout = r.id
		WHERE rc.cohort = ANY($1) AND r.component = $2 AND r.state IN ('running', 'paused', 'completed')`,
		bad.AllCohorts(), bad.Component, priority).Scan(&priority)
	if err != nil {
		return r, fmt.Errorf("revert %s: %w", bad.ID, err)
	}
	return fleet.Rollout{
		Kind: topics.EntryRevert, Component: release.Component, Offset: fleet.NewOffset(), Policy: policy, RevertOf: bad.ID,
		Waves: fleet.NewWaves(policy, bad.CanaryCohort),
		RolloutSpec: fleet.RolloutSpec{Release: bad.Release, Version: spec.To, Cohorts: bad.Cohorts, CanaryCohort: bad.CanaryCohort,
			From: "=" + bad.Version, Priority: priority, Note: spec.Note},
	}, nil
}

package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// silentAfter is after how many seconds without news a device d with its contact
// c counts as silent in rollout r. Of the intervals that its operator and the
// device itself name the longer one counts: it learns of a shorter one at the
// end of the longer.
const silentAfter = `greatest(r.silent_seconds, r.silent_factor * greatest(d.polling_seconds, c.polling_seconds))`

// absentAfter is fleet.AbsentAfter in seconds.
var absentAfter = strconv.FormatFloat(fleet.AbsentAfter.Seconds(), 'f', 0, 64)

// eligibleArgs are the arguments $1 to $8 of eligibleMembers.
func eligibleArgs(ctx context.Context, tx pgx.Tx, r fleet.Rollout) ([]any, error) {
	release, err := readRelease(ctx, tx, r.Release, r.Version)
	if err != nil {
		return nil, err
	}
	keys, err := versionKeys(ctx, tx, r.Component, func(version string) (bool, error) {
		if ok, err := fleet.Eligible(r.Kind, r.From, r.Version, version); err != nil || !ok {
			return false, err
		}
		// Who has to pass through another release first is not in it yet.
		return release.Takes(version)
	})
	if err != nil {
		return nil, err
	}
	return []any{r.ID, r.AllCohorts(), r.CanaryCohort, r.Offset, release.Models, nonNil(release.Hardware), r.Component, keys}, nil
}

// versionKeys are the sort keys of those versions of a component that run anywhere, and
// that are wanted: few, found by skipping through the index.
func versionKeys(ctx context.Context, tx pgx.Tx, component string, wanted func(version string) (bool, error)) ([]string, error) {
	rows, err := tx.Query(ctx, `
		WITH RECURSIVE seen AS (
			(SELECT sort_key, version FROM device_version WHERE component = $1 ORDER BY sort_key LIMIT 1)
			UNION ALL
			SELECT n.sort_key, n.version FROM seen, LATERAL (
				SELECT sort_key, version FROM device_version WHERE component = $1 AND sort_key > seen.sort_key ORDER BY sort_key LIMIT 1) n
		) SELECT sort_key, version FROM seen`, component)
	if err != nil {
		return nil, fmt.Errorf("read versions of %s: %w", component, err)
	}
	keys := []string{}
	var key, version string
	_, err = pgx.ForEachRow(rows, []any{&key, &version}, func() error {
		ok, err := wanted(version)
		if ok {
			keys = append(keys, key)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read versions of %s: %w", component, err)
	}
	return keys, nil
}

// eligibleMembers is the rollout's members, as package fleet counts them: of
// the release's models and hardware, and running a version that it replaces or
// with a report on the rollout. The model of a device that was never seen is
// not known, so it is not among them. A device in several of the cohorts is
// there once; canary says that it is in the canary cohort. One without a report
// is absent from a wave that opens after present_until: a day after its last
// contact (fleet.AbsentAfter), or later if it polls so seldom.
var eligibleMembers = `
	WITH member AS (
		SELECT device, (bucket - $4::integer + 1000000) % 1000000 AS position, bool_or(cohort = $3) AS canary
		FROM cohort_member WHERE cohort = ANY($2) GROUP BY device, bucket
	), eligible AS (
		SELECT m.device, m.position, m.canary, d.model, d.hardware, d.region,
			coalesce(o.from_version, v.version, '') AS from_version,
			o.state, o.outcome, o.reported_at, o.until_at, c.first_contact, c.last_contact,
			` + silentAfter + ` * interval '1 second' AS silent_after,
			CASE WHEN o.device IS NULL THEN c.last_contact + greatest(` + absentAfter + `, ` + silentAfter + `) * interval '1 second'
				ELSE 'infinity' END AS present_until
		FROM member m
		JOIN rollout r ON r.id = $1
		JOIN device d ON d.id = m.device
		LEFT JOIN contact c ON c.device = m.device
		LEFT JOIN rollout_device o ON o.rollout = $1 AND o.device = m.device
		LEFT JOIN device_version v ON v.device = m.device AND v.component = $7
		WHERE d.model = ANY($5)
			AND (cardinality($6::text[]) = 0 OR d.hardware = ANY($6))
			AND (o.device IS NOT NULL OR v.sort_key = ANY($8))
	)`

// inWave joins eligible e with the wave w that covers it.
const inWave = `w.rollout = $1 AND w.state <> 'pending'
	AND CASE WHEN w.cohort <> '' THEN e.canary ELSE NOT e.canary AND e.position >= w.start_ppm AND e.position < w.threshold_ppm END`

// openNext closes the open wave, if any, and opens the next one. Waves that add
// nobody, as happens in small fleets, pass at once, except for the last, and
// not before somebody has proved the release: while there is nobody at all, the
// first wave stays open without a width (see widen).
func openNext(ctx context.Context, tx pgx.Tx, r fleet.Rollout, now time.Time) error {
	if _, err := tx.Exec(ctx, `
		UPDATE rollout_wave SET state = 'passed', closed_at = $2 WHERE rollout = $1 AND state = 'open'`, r.ID, now); err != nil {
		return fmt.Errorf("close wave of %s: %w", r.ID, err)
	}
	args, err := eligibleArgs(ctx, tx, r)
	if err != nil {
		return err
	}
	previous, proof := int64(0), false
	for _, w := range r.Waves {
		if w.State != fleet.WavePending {
			if w.Cohort == "" {
				previous = max(previous, w.Threshold)
			}
			continue
		}
		start, threshold := int64(0), int64(topics.Buckets)
		if w.Cohort == "" {
			start = previous
			if threshold, err = percentThreshold(ctx, tx, r, w, previous, 0, now, args); err != nil {
				return err
			}
		}
		state, closed := fleet.WaveOpen, (*time.Time)(nil)
		if threshold == start && !r.Last(w) {
			if !proof {
				if proof, _, err = proven(ctx, tx, r, w, start, now, args); err != nil {
					return err
				}
			}
			if proof {
				state, closed = fleet.WavePassed, &now
			}
		}
		_, err := tx.Exec(ctx, `
			UPDATE rollout_wave SET state = $3, start_ppm = $4, threshold_ppm = $5, opened_at = $6, opens_at = $6, closed_at = $7
			WHERE rollout = $1 AND index = $2`, r.ID, w.Index, string(state), start, threshold, now, closed)
		if err != nil {
			return fmt.Errorf("open wave %d of %s: %w", w.Index, r.ID, err)
		}
		if state == fleet.WaveOpen {
			return nil
		}
		previous = threshold
	}
	return nil
}

// widen opens the open wave anew, for the members that are behind it: it had
// none.
func widen(ctx context.Context, tx pgx.Tx, r fleet.Rollout, now time.Time) error {
	w, ok := r.Current()
	if !ok || w.Cohort != "" {
		return fmt.Errorf("widen the wave of %s: %w", r.ID, fleet.ErrTransition)
	}
	args, err := eligibleArgs(ctx, tx, r)
	if err != nil {
		return err
	}
	threshold, err := percentThreshold(ctx, tx, r, w, w.Threshold, w.Threshold, now, args)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE rollout_wave SET threshold_ppm = $3, opened_at = $4, opens_at = $4, sample_at = NULL WHERE rollout = $1 AND index = $2`,
		r.ID, w.Index, threshold, now)
	if err != nil {
		return fmt.Errorf("widen wave %d of %s: %w", w.Index, r.ID, err)
	}
	return nil
}

// proven is fleet.Evidence's Proven and Beyond, for a wave without members that
// ends at threshold; behind a canary cohort's wave there is nobody. That some
// run the release already is no proof while others are only away. Who runs it
// without having committed it in some rollout of it, in a trial perhaps, proves
// nothing.
func proven(ctx context.Context, tx pgx.Tx, r fleet.Rollout, w fleet.Wave, threshold int64, now time.Time, args []any) (proof, beyond bool, err error) {
	if r.Kind == topics.EntryRevert {
		return true, false, nil
	}
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM rollout_device WHERE rollout = $1 AND outcome = 'committed')`, r.ID).Scan(&proof)
	if err != nil || proof {
		return proof, false, err
	}
	there, gone, err := behind(ctx, tx, threshold, now, args)
	if err != nil || there || gone > 0 {
		return false, there, err
	}
	cohorts := r.AllCohorts()
	if w.Cohort != "" {
		cohorts = []string{w.Cohort}
	}
	err = tx.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM cohort_member m JOIN device_version v ON v.device = m.device AND v.component = $2
			WHERE m.cohort = ANY($1) AND v.version = $3 AND NOT EXISTS (
				SELECT FROM rollout_device o JOIN rollout r ON r.id = o.rollout
				WHERE o.device = m.device AND r.component = $2 AND r.version = $3 AND o.state <> 'committed'))`,
		cohorts, r.Component, r.Version).Scan(&proof)
	return proof, false, err
}

// behind reports whether members are there at position threshold or behind it,
// and how many are absent.
func behind(ctx context.Context, tx pgx.Tx, threshold int64, now time.Time, args []any) (there bool, gone int64, err error) {
	err = tx.QueryRow(ctx, eligibleMembers+`
		SELECT coalesce(bool_or(present_until >= $10), false), count(*) FILTER (WHERE present_until < $10)
		FROM eligible WHERE NOT canary AND position >= $9`, append(args[:8:8], threshold, now)...).Scan(&there, &gone)
	return there, gone, err
}

// away is fleet.Evidence's Away for the open wave w. A revert waits for nobody:
// whoever comes back with what is reverted has waited long enough.
func away(ctx context.Context, tx pgx.Tx, r fleet.Rollout, w fleet.Wave, c fleet.Counts, proof bool, now time.Time, args []any) (int64, error) {
	overdue := !now.Before(r.StartedAt.Add(time.Duration(r.Policy.Deadline)))
	opens := fleet.Gate(r.Policy.Gate, w, c, now).Pass
	if c.Members == 0 {
		opens = proof && (opens || overdue)
	}
	if !opens || r.Last(w) || r.Kind == topics.EntryRevert {
		return 0, nil
	}
	threshold := w.Threshold
	if w.Cohort != "" {
		threshold = 0
	}
	there, gone, err := behind(ctx, tx, threshold, now, args)
	if err != nil {
		return 0, fmt.Errorf("look behind wave %d of %s: %w", w.Index, r.ID, err)
	}
	if there {
		return 0, nil
	}
	return gone, nil
}

// percentThreshold finds where a wave ends that opens now and takes its share of
// the members at position from or behind it, absent ones too: or the first
// devices that come back after everybody was away would be half a fleet. But it
// reaches as far as the first one that is there; while nobody is, it adds
// nothing. One statement counts them and finds the one at the wave's end,
// because both have to look at all.
func percentThreshold(ctx context.Context, tx pgx.Tx, r fleet.Rollout, w fleet.Wave, previous, from int64, now time.Time, args []any) (int64, error) {
	share := fleet.WavePolicy{Percent: w.Percent}.Share()
	if share >= topics.Buckets {
		return fleet.OpenWave(share, 0, previous, nil)
	}
	var members int64
	var last, there *int64
	err := tx.QueryRow(ctx, eligibleMembers+`, ranked AS (
			SELECT position, present_until >= $11 AS present, row_number() OVER (ORDER BY position) AS place, count(*) OVER () AS members
			FROM eligible WHERE NOT canary AND position >= $10
		) SELECT count(*), max(position) FILTER (WHERE place = greatest(1, ($9 * members + 999999) / 1000000)), min(position) FILTER (WHERE present)
		FROM ranked`, append(args[:8:8], share, from, now)...).Scan(&members, &last, &there)
	if err != nil {
		return 0, fmt.Errorf("find the end of wave %d of %s: %w", w.Index, r.ID, err)
	}
	if there == nil {
		return previous, nil
	}
	return fleet.OpenWave(share, members, previous, func(k int64) (int64, error) {
		if last == nil || k != topics.ShareCount(share, members) {
			return 0, fmt.Errorf("wave %d of %s: position of member %d was not read", w.Index, r.ID, k)
		}
		return max(*last, *there), nil
	})
}

// isSilent says of an eligible e with a report, at $9: it has started, is not at the
// end of an attempt, and has said nothing for too long. A waiting device counts
// only when the time that it named has passed and it was in contact since.
const isSilent = `(e.state NOT IN ('committed', 'failed', 'rolled_back')
	AND greatest(e.reported_at, e.until_at, $10::timestamptz) + e.silent_after <= $9::timestamptz
	AND (e.state <> 'waiting' OR e.until_at IS NOT NULL AND e.last_contact >= e.until_at))`

// standing counts the eligible members of one wave by state and outcome.
type standing struct {
	wave    int
	state   string // what a device reports, or "silent", "unreached", "absent", "waiting"
	outcome string
	n       int64
}

// standings counts the members of the waves that have opened; only of wave
// only, unless that is negative.
func standings(ctx context.Context, tx pgx.Tx, r fleet.Rollout, only int, now time.Time, args []any) ([]standing, error) {
	rows, err := tx.Query(ctx, eligibleMembers+`
		SELECT w.index,
			CASE
				WHEN e.present_until < w.opened_at THEN 'absent'
				WHEN e.state IS NULL THEN CASE WHEN
					greatest(e.first_contact, w.opens_at + w.spread_seconds * (e.position - w.start_ppm) / greatest(w.threshold_ppm - w.start_ppm, 1)
						* interval '1 second') + e.silent_after <= $9
					THEN 'unreached' ELSE 'waiting' END
				WHEN `+isSilent+` THEN 'silent'
				ELSE e.state
			END AS standing, coalesce(e.outcome, ''), count(*)
		FROM eligible e
		JOIN rollout_wave w ON `+inWave+`
		WHERE $11::integer < 0 OR w.index = $11
		GROUP BY 1, 2, 3`, append(args[:8:8], now, optional(r.ResumedAt), only)...)
	if err != nil {
		return nil, fmt.Errorf("count devices of %s: %w", r.ID, err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s standing, err error) {
		err = row.Scan(&s.wave, &s.state, &s.outcome, &s.n)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("count devices of %s: %w", r.ID, err)
	}
	return out, nil
}

// tallied adds a standing to the counts of its wave.
func (s standing) tallied(c fleet.Counts) fleet.Counts {
	if s.state == "absent" {
		c.Absent += s.n
		return c
	}
	c.Members += s.n
	failed := s.outcome == string(topics.StateFailed) || s.outcome == string(topics.StateRolledBack)
	switch {
	case s.outcome == string(topics.StateCommitted):
		c.Committed += s.n
	case failed:
		c.Failed += s.n
	case s.state == "silent":
		c.Silent += s.n
	case s.state == "unreached":
		c.Unreached += s.n
	}
	// A failed device that tries again is not decided.
	if topics.State(s.state).Terminal() || s.state == "silent" || s.outcome == string(topics.StateCommitted) {
		c.Decided += s.n
	}
	return c
}

// describeWaves fills in counts, members and what the gate waits for.
func describeWaves(ctx context.Context, tx pgx.Tx, r *fleet.Rollout) error {
	if r.StartedAt.IsZero() {
		return nil
	}
	now, err := txNow(ctx, tx)
	if err != nil {
		return err
	}
	args, err := eligibleArgs(ctx, tx, *r)
	if err != nil {
		return err
	}
	found, err := standings(ctx, tx, *r, -1, now, args)
	if err != nil {
		return err
	}
	for i := range r.Waves {
		w := &r.Waves[i]
		if w.State == fleet.WavePending {
			continue
		}
		w.Counts = map[string]int64{}
		var counts fleet.Counts
		for _, s := range found {
			if s.wave == w.Index {
				w.Counts[s.state] += s.n
				counts = s.tallied(counts)
			}
		}
		w.Members = counts.Members + counts.Absent
		if w.State != fleet.WaveOpen {
			continue
		}
		proof := true
		if counts.Members == 0 {
			if proof, _, err = proven(ctx, tx, *r, *w, w.Threshold, now, args); err != nil {
				return err
			}
		}
		switch {
		case !proof:
			w.Gate = fleet.FirstDevice(*w, counts)
		case !r.Last(*w):
			w.Gate = fleet.Gate(r.Policy.Gate, *w, counts, now).Waits
			gone, err := away(ctx, tx, *r, *w, counts, proof, now, args)
			if err != nil {
				return err
			}
			if gone > 0 {
				w.Gate = fleet.AllAway(gone)
			}
		}
	}
	return nil
}

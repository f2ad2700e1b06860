package store

import (
	"cmp"
	"encoding/json"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// uplink is a batch of messages of known devices, on its way into the tables.
// Each table is written by one statement that takes the whole batch as a JSON
// array, which costs a tenth of a statement for each message. PostgreSQL takes
// a key only once per statement, so the batch is first reduced to what is
// newest for each key: what a message that is older within the batch would have
// written, the newer one overwrites.
type uplink struct {
	results   []UplinkResult
	contacts  newest[string, contactRow]
	reports   []reportRow
	standings newest[[2]string, standingRow]
	outcomes  newest[[2]string, standingRow]
	transfers newest[attemptKey, transferRow]
	versions  newest[[2]string, versionRow]
	beats     newest[string, beatRow]
	presences newest[string, presenceRow]
	logs      []logRow
	refusals  newest[string, refusalRow]
	acks      []ackRow
	held      map[string]int64 // assignment version that devices say they hold
	heard     map[string]countRow
}

// newest keeps one row for each key, in order of first appearance.
type newest[K comparable, R any] struct {
	at   map[K]int
	rows []R
}

// put keeps row under key; merge decides what becomes of two.
func (n *newest[K, R]) put(key K, row R, merge func(old, new R) R) {
	if i, ok := n.at[key]; ok {
		n.rows[i] = merge(n.rows[i], row)
		return
	}
	if n.at == nil {
		n.at = map[K]int{}
	}
	n.at[key] = len(n.rows)
	n.rows = append(n.rows, row)
}

// countRow is how a device numbered the heartbeat that was stored last.
type countRow struct {
	epoch, sequence int64
	stored          time.Time
}

// The rows, as the statements read them; at is the index of the record.
type (
	contactRow struct {
		Device string    `json:"device"`
		First  time.Time `json:"first"`
		Last   time.Time `json:"last"`
	}
	reportRow struct {
		topics.Status
		Device   string    `json:"device"`
		StoredAt time.Time `json:"stored_at"`
		at       int
	}
	standingRow struct {
		topics.Status
		Device string `json:"device"`
	}
	versionRow struct {
		Device    string `json:"device"`
		Component string `json:"component"`
		Version   string `json:"version"`
		SortKey   string `json:"sort_key"`
		Epoch     int64  `json:"epoch"`
		Sequence  int64  `json:"sequence"`
	}
	beatRow struct {
		Device    string          `json:"device"`
		CheckIn   *time.Time      `json:"check_in"`
		Millis    int64           `json:"millis"`
		Mode      topics.Mode     `json:"mode"`
		Polling   int64           `json:"polling"`
		Agent     string          `json:"agent"`
		Heartbeat json.RawMessage `json:"heartbeat"`
		Epoch     int64           `json:"epoch"`
		Sequence  int64           `json:"sequence"`
		Held      int64           `json:"held"`
		at        int
	}
	presenceRow struct {
		Device     string `json:"device"`
		Connected  bool   `json:"connected"`
		Connection int64  `json:"connection"`
		Node       string `json:"node"`
		at         int
	}
	logRow struct {
		topics.Log
		Device   string    `json:"device"`
		StoredAt time.Time `json:"stored_at"`
		at       int
	}
	ackRow struct {
		Device  string `json:"device"`
		Command string `json:"command"`
	}
)

// newUplink reduces messages of known devices. results gets what becomes of
// each; until write has run, that is Duplicate.
func newUplink(messages []message, results []UplinkResult) *uplink {
	u := &uplink{results: results, held: map[string]int64{}, heard: map[string]countRow{}}
	for _, m := range messages {
		results[m.at].Outcome = Duplicate
		stored := m.record.Stored.UTC()
		u.contacts.put(m.device, contactRow{m.device, stored, stored}, func(old, new contactRow) contactRow {
			if new.First.Before(old.First) {
				old.First = new.First
			}
			if new.Last.After(old.Last) {
				old.Last = new.Last
			}
			return old
		})
		switch p := m.payload.(type) {
		case topics.Status:
			u.status(m, p)
		case topics.Heartbeat:
			u.heartbeat(m, p)
		case topics.Presence:
			u.presence(m, p)
		case topics.Log:
			u.logs = append(u.logs, logRow{p, m.device, stored, m.at})
		case topics.Refusal:
			u.refusal(m, p)
		}
	}
	return u
}

func (u *uplink) status(m message, p topics.Status) {
	u.reports = append(u.reports, reportRow{p, m.device, m.record.Stored.UTC(), m.at})
	key := [2]string{p.Rollout, m.device}
	u.standings.put(key, standingRow{p, m.device}, newerStatus)
	if p.State.Terminal() {
		u.outcomes.put(key, standingRow{p, m.device}, newerStatus)
	}
	u.transfer(m, p)
	u.runs(m, p.Component, p.Running, p.Epoch, p.Sequence)
}

// newerStatus goes by (epoch, sequence), as the statements do: a device numbers
// all its reports in one sequence, which only grows within an epoch, whereas
// attempts of older agents begin with 1 again when they are told to retry.
func newerStatus(old, new standingRow) standingRow {
	if cmp.Or(cmp.Compare(old.Epoch, new.Epoch), cmp.Compare(old.Sequence, new.Sequence)) > 0 {
		return old
	}
	return new
}

// runs notes what a device says it runs.
func (u *uplink) runs(m message, component, version string, epoch, sequence int64) {
	key, err := fleet.VersionKey(version)
	if err != nil {
		return // the decoder has checked it
	}
	row := versionRow{m.device, component, version, key, epoch, sequence}
	u.versions.put([2]string{m.device, component}, row, func(old, new versionRow) versionRow {
		if cmp.Or(cmp.Compare(old.Epoch, new.Epoch), cmp.Compare(old.Sequence, new.Sequence)) > 0 {
			return old
		}
		return new
	})
}

func (u *uplink) heartbeat(m message, p topics.Heartbeat) {
	row := beatRow{
		Device: m.device, Mode: p.Mode, Polling: min(p.IntervalSeconds, fleet.MaxPollingSeconds), Agent: p.Agent, Heartbeat: m.record.Payload,
		Epoch: p.Epoch, Sequence: p.Sequence, Held: p.Assignment, at: m.at,
	}
	if p.CheckInMillis > 0 {
		stored := m.record.Stored.UTC()
		row.CheckIn, row.Millis = &stored, p.CheckInMillis
	}
	u.beats.put(m.device, row, func(old, new beatRow) beatRow {
		if cmp.Or(cmp.Compare(old.Epoch, new.Epoch), cmp.Compare(old.Sequence, new.Sequence)) > 0 {
			old, new = new, old
		}
		if new.CheckIn == nil { // it says nothing of a check-in; the one before may
			new.CheckIn, new.Millis = old.CheckIn, old.Millis
		}
		return new
	})
	for component, version := range p.Versions {
		u.runs(m, component, version, p.Epoch, p.Sequence)
	}
	if p.Command != "" {
		u.acks = append(u.acks, ackRow{m.device, p.Command})
	}
	u.held[m.device] = p.Assignment
	if now := m.record.Stored; !now.Before(u.heard[m.device].stored) {
		u.heard[m.device] = countRow{p.Epoch, p.Sequence, now}
	}
}

func (u *uplink) presence(m message, p topics.Presence) {
	row := presenceRow{m.device, p.Connected, p.Connection, p.Node, m.at}
	u.presences.put(m.device, row, func(old, new presenceRow) presenceRow {
		// A connection's end comes after its beginning.
		if old.Connection > new.Connection || old.Connection == new.Connection && !old.Connected {
			return old
		}
		return new
	})
}

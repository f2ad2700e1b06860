package journal

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"groundswell/agent/redact"
	"groundswell/agent/update"
	"groundswell/topics"
)

// Record is everything that the journal holds. The zero value, with an epoch,
// is a device that has done nothing yet.
type Record struct {
	// Schema is that of the agent which wrote it last; see the package comment. 0: of
	// one that did not say so.
	Schema int `json:"schema,omitempty"`
	// Epoch and Sequence number the reports: Sequence counts from 1 within an
	// epoch. See topics.Status.
	Epoch    int64 `json:"epoch"`
	Sequence int64 `json:"sequence"`
	// Reserved: numbers up to here may have been given to reports that could not
	// be written down. 0: none. See Journal.Hold.
	Reserved int64 `json:"reserved,omitempty"`
	// Blind: nothing was left that told of earlier epochs, so Epoch may be below
	// one of them. See Journal.Witness.
	Blind bool `json:"blind,omitempty"`

	// Deployments in progress, by component. Absent: idle.
	Deployments map[string]Deployment `json:"deployments,omitempty"`
	// Failures by rollout, of attempts that ended badly.
	Failures map[string]Failure `json:"failures,omitempty"`
	// Ended counts the attempts that ended, well or badly, by rollout. Nothing makes it
	// less, so that no two attempts share a number. Absent: of an older agent.
	Ended map[string]Ending `json:"ended,omitempty"`
	// Penalties by SHA-256 of artifacts that were put back after a trial.
	Penalties map[string]Penalty `json:"penalties,omitempty"`

	// Usage is what the budget of a day has been used for.
	Usage Usage `json:"usage,omitzero"`

	// Command is the id of the last command obeyed.
	Command string `json:"command,omitempty"`

	Queue []Report `json:"queue,omitempty"`
	// NextID numbers the reports in the queue over all epochs.
	NextID int64 `json:"next_id"`
	// Dropped counts the reports that were given up for want of space or
	// because the broker will never take them.
	Dropped int64 `json:"dropped,omitempty"`

	flying map[int64]int // see Journal.Sending
}

// Deployment is an attempt in progress.
type Deployment struct {
	State   update.State `json:"state"`
	Entry   topics.Entry `json:"entry"`
	Cohort  string       `json:"cohort"`  // whose manifest delivered the entry
	Attempt int          `json:"attempt"` // 1 for the first
	From    string       `json:"from"`    // version before the attempt
	// Downloaded is when the last byte was verified; zero before that.
	Downloaded time.Time `json:"downloaded,omitzero"`
	// Unasked: the list of releases by which it began is what was held, or came from peers,
	// and no source has said since whether newer roots of the image repository withdraw the
	// keys that it is signed with. Older agents do not write it.
	Unasked bool `json:"unasked,omitempty"`
	// Refused is how often, before the jump, newer roots or the list of releases were refused,
	// or the list was withdrawn. Older agents begin with none at each start.
	Refused int `json:"refused,omitempty"`
	// Transfer is where the bytes came from. What came after the last write before a
	// kill is missing from it.
	Transfer topics.Transfer `json:"transfer,omitzero"`
	// PeerFaults is what other devices of the site did wrong, as far as Transfer.
	PeerFaults topics.PeerFaults `json:"peer_faults,omitzero"`
	// PreviousBootID is of the launch that ran when the jump began.
	PreviousBootID string `json:"previous_boot_id,omitempty"`
	// Before is what metrics were before the jump, by name; see health.Check.Metric.
	Before map[string]float64 `json:"before,omitempty"`
	// Slot is where the new version is.
	Slot string `json:"slot,omitempty"`
	// Reason and Detail say why a terminal state was entered.
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Reported is the last state whose report is in the queue or was sent.
	Reported update.State `json:"reported,omitempty"`
}

// Usage counts the bytes of the present day; see package allowance. The zero value: no day
// has begun.
type Usage struct {
	Until time.Time `json:"until"` // when the next day begins
	// Floor is what time it was at least, as far as that is certain, when the day began.
	Floor time.Time `json:"floor,omitzero"`
	Bytes int64     `json:"bytes"`
	// Metered are those of them that came over metered links.
	Metered int64 `json:"metered,omitempty"`
}

// Failure counts the attempts at one rollout that ended badly.
type Failure struct {
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
	// NotBefore is the earliest time of the next attempt.
	NotBefore time.Time `json:"not_before"`
}

// Ending counts the attempts at one rollout that ended.
type Ending struct {
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

// maxRollouts bounds how many rollouts are remembered, by their failures and by their ends.
const maxRollouts = 64

// Fail counts a failed attempt. The rollout that failed longest ago is
// forgotten when there are too many.
func (r *Record) Fail(rollout string, now, notBefore time.Time) {
	if r.Failures == nil {
		r.Failures = map[string]Failure{}
	}
	r.Failures[rollout] = Failure{r.Failures[rollout].Count + 1, now, notBefore}
	forget(r.Failures, maxRollouts, func(f Failure) time.Time { return f.Last })
}

// Attempt is the number of the next attempt at a rollout, from 1.
func (r *Record) Attempt(rollout string) int {
	return max(r.Ended[rollout].Count, r.Failures[rollout].Count) + 1
}

// End counts an attempt that ended, by its number. The rollout whose attempts ended longest
// ago is forgotten when there are too many.
func (r *Record) End(rollout string, attempt int, now time.Time) {
	if r.Ended == nil {
		r.Ended = map[string]Ending{}
	}
	r.Ended[rollout] = Ending{max(attempt, r.Ended[rollout].Count), now}
	forget(r.Ended, maxRollouts, func(e Ending) time.Time { return e.Last })
}

// forget removes the oldest until no more than limit are left.
func forget[V any](all map[string]V, limit int, last func(V) time.Time) {
	for len(all) > limit {
		oldest := ""
		for key, v := range all {
			if oldest == "" || last(v).Before(last(all[oldest])) {
				oldest = key
			}
		}
		delete(all, oldest)
	}
}

// begin begins a new epoch.
func (r *Record) begin(epoch int64) { r.Epoch, r.Sequence, r.Reserved = epoch, 0, 0 }

// SetDeployment stores or, when it is idle, removes a component's deployment.
func (r *Record) SetDeployment(component string, d Deployment) {
	if d.State == update.Idle {
		delete(r.Deployments, component)
		return
	}
	if r.Deployments == nil {
		r.Deployments = map[string]Deployment{}
	}
	r.Deployments[component] = d
}

// Report is a message that waits for the broker's PUBACK.
type Report struct {
	ID      int64           `json:"id"`
	Kind    topics.Kind     `json:"kind"`
	Payload json.RawMessage `json:"payload"`
	// Final: it ends an attempt, and is the last to be given up.
	Final bool `json:"final,omitempty"`
}

// Bounds of the queue.
const (
	MaxStatuses = 256
	MaxLogs     = 16
)

// QueueStatus numbers a status and queues it. What looks like a secret is taken out of
// its detail, which is as long as there is room for. topics.ErrInvalid and
// topics.ErrTooLarge are about the status, and stay however often it is tried.
func (r *Record) QueueStatus(s topics.Status) error {
	s.Schema, s.Epoch, s.Sequence = topics.Schema, r.Epoch, r.Sequence+1
	// The JSON text may be up to six times as long as what it says.
	for s.Detail = Clip(redact.Text(s.Detail), topics.MaxText); ; s.Detail = Clip(s.Detail, len(s.Detail)/2) {
		payload, err := topics.Encode(s)
		if err == nil && len(payload) > topics.MaxStatus && s.Detail != "" {
			continue
		}
		return r.queue(topics.KindStatus, payload, err, s.State.Terminal())
	}
}

// QueueHeartbeat numbers a heartbeat; it replaces the one in the queue, if any.
func (r *Record) QueueHeartbeat(h topics.Heartbeat) error {
	h.Schema, h.Epoch, h.Sequence = topics.Schema, r.Epoch, r.Sequence+1
	payload, err := topics.Encode(h)
	return r.queue(topics.KindHeartbeat, payload, err, false)
}

// QueueLog numbers a log and queues it, without what looks like a secret. Of one that is
// too long the end is kept: that is where it says what went wrong.
func (r *Record) QueueLog(l topics.Log) error {
	l.Schema, l.Epoch, l.Sequence = topics.Schema, r.Epoch, r.Sequence+1
	l.Text = redact.Text(l.Text)
	// The JSON text may be up to six times as long as what it says.
	for l.Text = clipFront(l.Text, topics.MaxLog/2); ; l.Text = clipFront(l.Text, len(l.Text)/2) {
		payload, err := topics.Encode(l)
		if err == nil && len(payload) > topics.MaxLog && l.Text != "" {
			continue
		}
		return r.queue(topics.KindLog, payload, err, false)
	}
}

func (r *Record) queue(kind topics.Kind, payload []byte, err error, final bool) error {
	if err == nil && len(payload) > topics.MaxPayload(kind) {
		err = topics.ErrTooLarge
	}
	if err != nil {
		return fmt.Errorf("queue %s: %w", kind, err)
	}
	r.Sequence++
	r.NextID++
	if kind == topics.KindHeartbeat {
		r.Queue = slices.DeleteFunc(r.Queue, func(q Report) bool { return q.Kind == kind })
	}
	r.Queue = append(r.Queue, Report{ID: r.NextID, Kind: kind, Payload: payload, Final: final})
	r.condense()
	r.bound(topics.KindLog, MaxLogs)
	r.bound(topics.KindStatus, MaxStatuses)
	return nil
}

// bound gives up the oldest reports of a kind beyond limit, final ones last.
func (r *Record) bound(kind topics.Kind, limit int) {
	n := 0
	for _, q := range r.Queue {
		if q.Kind == kind {
			n++
		}
	}
	for ; n > limit; n-- {
		i := slices.IndexFunc(r.Queue, func(q Report) bool { return q.Kind == kind && !q.Final })
		if i < 0 {
			i = slices.IndexFunc(r.Queue, func(q Report) bool { return q.Kind == kind })
		}
		r.Queue = slices.Delete(r.Queue, i, i+1)
		r.Dropped++
	}
}

// order is that of sending: status first, then logs, then the heartbeat.
var order = []topics.Kind{topics.KindStatus, topics.KindLog, topics.KindHeartbeat}

// waiting lists what to send, bounded in number and bytes.
func (r *Record) waiting(n, size int) (list []Report) {
	for _, kind := range order {
		for _, q := range r.Queue {
			if q.Kind != kind {
				continue
			}
			if size -= len(q.Payload); size < 0 || len(list) == n {
				return list
			}
			list = append(list, q)
		}
	}
	return list
}

// valid is text as valid UTF-8 without U+0000, which databases refuse.
func valid(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "?")
}

// clipFront is Clip that keeps the end: whole lines, unless the last one alone is longer.
func clipFront(text string, n int) string {
	text = valid(text)
	if len(text) <= n {
		return text
	}
	cut := len(text) - n
	rest := strings.ToValidUTF8(text[cut:], "")
	if text[cut-1] == '\n' {
		return rest
	}
	if _, lines, ok := strings.Cut(rest, "\n"); ok && lines != "" {
		return lines
	}
	return rest
}

// Clip shortens text to at most n bytes of valid text; see valid.
func Clip(text string, n int) string {
	text = valid(text)
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "")
}

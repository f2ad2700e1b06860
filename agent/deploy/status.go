package deploy

import (
	"errors"
	"time"

	"groundswell/agent/journal"
	"groundswell/topics"
)

func (d *Driver) status(state topics.State) topics.Status { return d.statusOf(state, d.dep) }

func (d *Driver) statusOf(state topics.State, dep journal.Deployment) topics.Status {
	running := d.slots.Running()
	_, quality := d.clock.Read()
	s := topics.Status{
		Rollout: dep.Entry.Rollout, Revision: dep.Entry.Revision, Cohort: dep.Cohort, Component: d.cfg.Component,
		Release: dep.Entry.Release, Attempt: dep.Attempt, State: state, Reason: dep.Reason, Detail: dep.Detail,
		From: dep.From, Running: Versions(d.cfg.Component, d.slots)[d.cfg.Component], Target: dep.Entry.Version,
		SlotDigest: running.Image.SHA256, BootID: BootID(d.slots), PreviousBootID: dep.PreviousBootID,
		Clock: quality, At: d.clock.Now().UTC().Truncate(time.Millisecond),
	}
	if state == topics.StateDownloading {
		s.Bytes = dep.Entry.Target.Length
	}
	if dep.Transfer != (topics.Transfer{}) {
		s.Transfer = &dep.Transfer
	}
	if dep.PeerFaults != (topics.PeerFaults{}) {
		s.PeerFaults = &dep.PeerFaults
	}
	return s
}

// queue queues a status. Whether it can be told is no reason to stand still: one that is
// not valid, whatever was put into it, is told without what is for people and without what
// does not fit; and one that cannot be told even so is told to the log alone.
func (d *Driver) queue(r *journal.Record, s topics.Status) error {
	err := r.QueueStatus(s)
	if !untold(err) {
		return err
	}
	d.log.Error("a report is not valid, and is queued without what may be wrong with it", "rollout", s.Rollout, "state", string(s.State), "err", err)
	if err = r.QueueStatus(bare(s)); untold(err) {
		d.log.Error("a report cannot be told", "rollout", s.Rollout, "state", string(s.State), "err", err)
		return nil
	}
	return err
}

// untold reports whether an error is about the report, and not about where it is to go.
func untold(err error) bool {
	return errors.Is(err, topics.ErrInvalid) || errors.Is(err, topics.ErrTooLarge)
}

// bare is what is left of a status that is not valid.
func bare(s topics.Status) topics.Status {
	s.Detail, s.Transfer, s.PeerFaults, s.DownloadedBytes, s.Bytes = "", nil, nil, 0, 0
	s.Attempt = min(max(s.Attempt, 1), 1000)
	for _, version := range []*string{&s.From, &s.Running} {
		if topics.CheckVersion("", *version) != nil {
			*version = NoVersion
		}
	}
	for _, id := range []*string{&s.Reason, &s.PreviousBootID} {
		if topics.CheckID("", *id) != nil {
			*id = ""
		}
	}
	if topics.CheckID("", s.BootID) != nil {
		s.BootID = noBoot
	}
	if topics.CheckDigest("", s.SlotDigest) != nil {
		s.SlotDigest = ""
	}
	return s
}

// ownLog is the end of the agent's own log.
func (d *Driver) ownLog() string {
	if d.cfg.Log == nil {
		return ""
	}
	return d.cfg.Log()
}

// queueLog queues a log about the attempt, unless it is empty. Like a report, it keeps
// nothing waiting.
func (d *Driver) queueLog(r *journal.Record, source, text string) error {
	if text == "" {
		return nil
	}
	err := r.QueueLog(topics.Log{
		Rollout: d.dep.Entry.Rollout, Attempt: d.dep.Attempt, Source: source, Text: text,
		At: d.clock.Now().UTC().Truncate(time.Millisecond),
	})
	if untold(err) {
		d.log.Error("a log cannot be told", "source", source, "err", err)
		return nil
	}
	return err
}

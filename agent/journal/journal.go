package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Journal holds the Record in memory and on disk. It is safe for concurrent
// use.
type Journal struct {
	file *File

	mu      sync.Mutex // guards what follows, and the file
	raw     []byte     // the record as it is on disk
	changed chan struct{}
}

const name = "journal"

// Open reads the journal in dir, or begins one. now gives a new epoch its
// number. A journal that was damaged is begun anew, with what is left of it.
func Open(dir string, now time.Time, log *slog.Logger) (*Journal, error) {
	j := &Journal{file: NewFile(filepath.Join(dir, name)), changed: make(chan struct{}, 1)}
	raw, older, err := j.file.Load()
	var r Record
	switch {
	case errors.Is(err, os.ErrNotExist):
		log.Info("journal begun", "epoch", now.Unix())
	case errors.Is(err, ErrDamaged):
		log.Error("journal is damaged and begun anew: what this device was doing is forgotten", "err", err)
	case err != nil:
		return nil, fmt.Errorf("open journal: %w", err)
	default:
		if err := json.Unmarshal(raw, &r); err != nil {
			// Whole but not ours: a version of the agent that wrote otherwise.
			log.Error("journal cannot be read and is begun anew", "err", err)
			r = Record{Epoch: r.Epoch}
			older = true
		}
		if older {
			log.Warn("the newest journal was damaged, the one before it is used; a new epoch begins", "epoch", r.Epoch)
		}
		if !older && r.Epoch > 0 {
			j.raw = raw
			return j, nil
		}
	}
	// Higher than any before, also when the clock was not.
	r.Epoch, r.Sequence = max(r.Epoch+1, now.Unix(), 1), 0
	if err := j.save(r); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return j, nil
}

// Read returns what the journal in dir says, without opening it for writing.
func Read(dir string) (Record, error) {
	raw, _, err := NewFile(filepath.Join(dir, name)).Load()
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(raw, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return r, nil
}

func (j *Journal) save(r Record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := j.file.Save(raw); err != nil {
		return err
	}
	j.raw = raw
	select {
	case j.changed <- struct{}{}:
	default: // one reminder is enough
	}
	return nil
}

// get decodes a copy that shares nothing. Caller holds mu.
func (j *Journal) get() Record {
	var r Record
	if err := json.Unmarshal(j.raw, &r); err != nil {
		panic("journal: own record does not decode: " + err.Error()) // written by save or checked by Open
	}
	return r
}

// Snapshot is a copy of the record.
func (j *Journal) Snapshot() Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.get()
}

// Update changes the record in one durable write. If change or the writing
// fails, the record is as before.
func (j *Journal) Update(change func(*Record) error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.get()
	if err := change(&r); err != nil {
		return err
	}
	return j.save(r)
}

// Next is the report to send now; ok is false when the queue is empty.
func (j *Journal) Next() (report Report, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.get()
	return r.next()
}

// Sent removes a report that the broker has acknowledged.
func (j *Journal) Sent(id int64) error { return j.remove(id, 0) }

// Drop removes a report that the broker will never take, and counts it.
func (j *Journal) Drop(id int64) error { return j.remove(id, 1) }

func (j *Journal) remove(id, dropped int64) error {
	return j.Update(func(r *Record) error {
		for i, q := range r.Queue {
			if q.ID == id {
				r.Queue = append(r.Queue[:i:i], r.Queue[i+1:]...)
				r.Dropped += dropped
				break
			}
		}
		return nil // not there: a heartbeat that was replaced while it was sent
	})
}

// Changed gets a value after each write. One reader.
func (j *Journal) Changed() <-chan struct{} { return j.changed }

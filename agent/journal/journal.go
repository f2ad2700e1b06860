package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"groundswell/agent/disk"
)

// Journal holds the Record in memory and on disk. It is safe for concurrent
// use.
type Journal struct {
	file   *File
	epochs *File // a copy of the epoch
	log    *slog.Logger

	mu       sync.Mutex    // guards what follows, and the file
	raw      []byte        // the record: as it is on disk, or ahead of that by what Hold could not write
	limit    int64         // the highest number that Hold may give to what it cannot write; 0: none
	broken   error         // why the last write failed; nil when it did not
	flying   map[int64]int // by id of reports that are being sent: how often
	resaved  time.Time     // when waiting tried last to make durable what Load was not sure of; zero: never
	withheld bool          // it was said that reports are withheld for that
	changed  chan struct{}
}

// Schema is that of the records that are written here.
const Schema = 1

// reserve is how many numbers each write sets aside for reports that cannot be
// written: 45 days of a heartbeat a minute.
const reserve = 1 << 16

const (
	name      = "journal"
	epochName = "epoch"
)

// Open reads the journal in dir, or begins one. now gives a new epoch its
// number: it is the newest time that was verified, and not what a clock says
// that nobody has confirmed. An epoch of the year 2100 would be the highest for
// good: should it be lost, all that comes after is ignored. A journal that was
// damaged is begun anew, with what is left of it.
//
// The disk need not take writes. A journal that cannot be written yet is in
// memory only, and nothing of its epoch is sent before it can: what is sent was
// queued, and queueing is a write.
func Open(dir string, now time.Time, log *slog.Logger) (*Journal, error) {
	return OpenOn(disk.OS, dir, now, log)
}

// OpenOn is Open on another file system than the machine's.
func OpenOn(on disk.FS, dir string, now time.Time, log *slog.Logger) (*Journal, error) {
	j := &Journal{file: NewFileOn(on, filepath.Join(dir, name)), epochs: NewFileOn(on, filepath.Join(dir, epochName)), log: log, flying: map[int64]int{}, changed: make(chan struct{}, 1)}
	copied := j.copiedEpoch()
	raw, older, err := j.file.Load()
	var r Record
	switch {
	case errors.Is(err, os.ErrNotExist):
		log.Info("journal begun")
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
			if r.Reserved > 0 {
				// How many of them were used nobody knows, and one more may have been by
				// each run that found the disk as it is now.
				r.Sequence = r.Reserved + 1
				j.limit = r.Sequence
			}
			if j.raw, err = json.Marshal(r); err != nil {
				return nil, fmt.Errorf("open journal: %w", err)
			}
			if copied < r.Epoch {
				j.copyEpoch(r.Epoch)
			}
			return j, nil
		}
	}
	// Higher than any before, as far as anything is left that tells.
	r.Blind = copied == 0 || copied < r.Epoch
	r.begin(max(r.Epoch+1, copied+1, now.Unix(), 1))
	log.Info("epoch begun", "epoch", r.Epoch)
	j.copyEpoch(r.Epoch)
	if err := j.save(r); err != nil {
		log.Error("journal cannot be written yet", "err", err)
		if j.raw, err = json.Marshal(r); err != nil {
			return nil, fmt.Errorf("open journal: %w", err)
		}
	}
	return j, nil
}

// copiedEpoch is what copyEpoch wrote, 0 if there is nothing.
func (j *Journal) copiedEpoch() int64 {
	raw, _, err := j.epochs.Load()
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			j.log.Warn("the copy of the epoch cannot be read", "err", err)
		}
		return 0
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < 0 {
		return 0 // not ours
	}
	return n
}

// copyEpoch keeps the epoch outside the journal, for when that is lost: a lower
// one would have all its reports ignored. Without the copy there is still the
// clock.
func (j *Journal) copyEpoch(epoch int64) {
	if err := j.epochs.Save(strconv.AppendInt(nil, epoch, 10)); err != nil {
		j.log.Warn("the epoch cannot be copied", "err", err)
	}
}

// leap is how far a clock that runs does not get between Open and the first
// message, most of the time. A new epoch without need does no harm.
const leap = time.Minute

// Witness tells the journal the time after a message was verified, and whether
// the device's own clock agrees: it is right then, or the message would have
// expired. An epoch that was begun blind, by a device that is new or has lost
// everything and with it perhaps the time, gives way to one of that time: the
// lost epoch was begun before it, most likely, and fleetd ignores what is not
// above it.
func (j *Journal) Witness(now time.Time, agrees bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.get()
	if !r.Blind {
		return nil
	}
	r.Blind = !agrees
	switch {
	case now.Unix() > r.Epoch+int64(leap.Seconds()):
		before := r.Epoch
		r.begin(now.Unix())
		j.copyEpoch(r.Epoch)
		j.log.Info("epoch begun, because the one before was begun without knowing the time", "epoch", r.Epoch, "before", before)
	case r.Blind:
		return nil
	}
	return j.save(r)
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

// save writes the record down and then goes by it. Caller holds mu.
func (j *Journal) save(r Record) error {
	r.Schema, r.Reserved = Schema, r.Sequence+reserve
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = j.file.Save(raw)
	if err != nil && j.broken == nil {
		j.log.Error("journal cannot be written: nothing is started or activated until it can", "err", err)
	} else if err == nil && j.broken != nil {
		j.log.Info("journal can be written again")
	}
	if j.broken = err; err != nil {
		if errors.Is(err, errUnsure) {
			return errors.Join(err, j.skip(r.Sequence))
		}
		return err
	}
	j.limit = r.Reserved
	j.use(raw)
	return nil
}

// skip leaves out the numbers up to one: a record that counts as not written may come back
// after a restart, and its reports are not to share their numbers with what Hold queues
// until then. Caller holds mu.
func (j *Journal) skip(sequence int64) error {
	if j.raw == nil {
		return nil // the first one; Open goes by it as it is
	}
	r := j.get()
	r.Sequence = max(r.Sequence, sequence)
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	j.raw = raw
	return nil
}

// use goes by a record. Caller holds mu.
func (j *Journal) use(raw []byte) {
	j.raw = raw
	select {
	case j.changed <- struct{}{}:
	default: // one reminder is enough
	}
}

// Broken is why the last write failed; nil when it did not.
func (j *Journal) Broken() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// get decodes a copy that shares nothing. Caller holds mu.
func (j *Journal) get() Record {
	var r Record
	if err := json.Unmarshal(j.raw, &r); err != nil {
		panic("journal: own record does not decode: " + err.Error()) // written by save or checked by Open
	}
	r.flying = j.flying
	return r
}

// Snapshot is a copy of the record.
func (j *Journal) Snapshot() Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.get()
	r.flying = nil // it belongs to who holds mu
	return r
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

// Hold is Update for what may be lost: a heartbeat, a log, or that a report was
// sent. When it cannot be written the record changes nevertheless, as long as
// this process lives, and the next write that goes well makes it durable; so a
// device whose disk fails can still say so. change may be called twice and
// queues at most one report. It is numbered from what the writes before have set
// aside; once that is used up it gets a number that was used already, so that it
// is a sign of life and no more. A journal that was never written has nothing
// set aside, and then it is an error.
func (j *Journal) Hold(change func(*Record) error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.get()
	before := r.Sequence
	if err := change(&r); err != nil {
		return err
	}
	err := j.save(r)
	if err == nil {
		return nil
	}
	if r.Sequence > before && r.Sequence > j.limit {
		if j.limit == 0 {
			return err
		}
		r = j.get()
		r.Sequence = j.limit - 1
		if err := change(&r); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	j.use(raw)
	return nil
}

// Next is the report to send now; ok is false when there is none.
func (j *Journal) Next() (report Report, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if list := j.waiting(1, math.MaxInt); len(list) > 0 {
		return list[0], true
	}
	return Report{}, false
}

// Waiting lists the reports to send now, in the order of Next: at most n of them, and as
// many from the first one on as have at most size bytes together.
func (j *Journal) Waiting(n, size int) []Report {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.waiting(n, size)
}

// Sending notes that reports are being sent, until landed is called: none of them gives way
// to a newer one meanwhile.
func (j *Journal) Sending(reports ...Report) (landed func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, report := range reports {
		j.flying[report.ID]++
	}
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, report := range reports {
			if j.flying[report.ID]--; j.flying[report.ID] == 0 {
				delete(j.flying, report.ID)
			}
		}
	}
}

// Sent removes a report that the broker has acknowledged. Where that cannot be
// written, it is sent once more after a restart; receivers are used to that.
func (j *Journal) Sent(id int64) error { return j.remove(id, 0) }

// Drop removes a report that the broker will never take, and counts it.
func (j *Journal) Drop(id int64) error { return j.remove(id, 1) }

func (j *Journal) remove(id, dropped int64) error {
	return j.Hold(func(r *Record) error {
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

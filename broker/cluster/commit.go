package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// committer is Sync "always": it writes through to the disk what JetStream has
// written to its files, once for everybody who waits (group commit). JetStream
// can do that itself, but for a stream without replicas it calls fsync for each
// message, which on an ordinary disk is less than a tenth as fast.
//
// It rests on one promise of JetStream (its default persist mode): a message is
// in the file, by write(2), before it is acknowledged. About the layout of the
// files it knows nothing: every file below the directory that has changed is
// synchronised, and every directory that has a new one.
//
// After a failed fsync nothing is known about what the disk holds, so the
// committer stays broken and every message is refused until a restart. Being out
// of file descriptors is another matter: nothing was asked of the disk.
type committer struct {
	dir   string
	fsync func(path string) error // replaced in tests
	kick  chan struct{}           // holds a token when somebody waits
	stop  chan struct{}
	done  sync.WaitGroup
	seen  map[string]stamp // of every file, when it was last synchronised

	mu      sync.Mutex // guards what follows
	waiting []func(error)
	broken  error
}

type stamp struct {
	size int64
	time time.Time
}

// recent is how old a file's time may be for the file to be synchronised even
// if its stamp is the same: within a tick of the kernel's clock, a write in
// place leaves no trace in the stamp.
const recent = 50 * time.Millisecond

func newCommitter(dir string) *committer {
	return &committer{
		dir: dir, fsync: fsync,
		kick: make(chan struct{}, 1), stop: make(chan struct{}), seen: map[string]stamp{},
	}
}

func (k *committer) start() { k.done.Go(k.run) }

// close ends it; who still waits gets ErrUnavailable.
func (k *committer) close() {
	close(k.stop)
	k.done.Wait()
	k.finish(k.take(), fmt.Errorf("%w: closing", ErrUnavailable))
}

// after calls done once everything that is in the files now is on the disk, or
// with the reason why it is not. done must not block.
func (k *committer) after(done func(error)) {
	k.mu.Lock()
	if err := k.broken; err != nil {
		k.mu.Unlock()
		done(err)
		return
	}
	k.waiting = append(k.waiting, done)
	k.mu.Unlock()
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

func (k *committer) take() []func(error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	waiting := k.waiting
	k.waiting = nil
	return waiting
}

func (k *committer) finish(waiting []func(error), err error) {
	for _, done := range waiting {
		done(err)
	}
}

func (k *committer) run() {
	for {
		select {
		case <-k.stop:
			return
		case <-k.kick:
		}
		waiting := k.take()
		err := k.commit()
		if err != nil {
			outOfFiles := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
			err = fmt.Errorf("%w: the disk did not take it: %w", ErrUnavailable, err)
			k.mu.Lock()
			if !outOfFiles { // the next commit takes the same files again
				k.broken = err
			}
			k.mu.Unlock()
			waiting = append(waiting, k.take()...)
		}
		k.finish(waiting, err)
	}
}

// err is why nothing can be stored any more.
func (k *committer) err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.broken
}

// commit synchronises every file that has changed since it was seen last.
func (k *committer) commit() error {
	start := time.Now()
	now := make(map[string]stamp, len(k.seen))
	grown := map[string]bool{} // directories with a new entry
	err := filepath.WalkDir(k.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		if entry.IsDir() {
			if _, known := k.seen[path]; !known {
				grown[filepath.Dir(path)] = true
			}
			now[path] = stamp{}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return gone(err)
		}
		s := stamp{info.Size(), info.ModTime()}
		before, known := k.seen[path]
		if !known {
			grown[filepath.Dir(path)] = true
		}
		now[path] = s
		if known && before == s && start.Sub(s.time) > recent {
			return nil
		}
		return gone(k.fsync(path))
	})
	if err != nil {
		return err
	}
	for dir := range grown {
		if err := gone(k.fsync(dir)); err != nil {
			return err
		}
	}
	k.seen = now
	return nil
}

// gone turns "it does not exist any more" into success: JetStream removes files
// whose messages were all handled.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func fsync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

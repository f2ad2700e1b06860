package cluster

import (
	"errors"
	"fmt"
)

var (
	// ErrFull: the stream has reached its size; nothing was stored.
	ErrFull = errors.New("store is full")
	// ErrBusy: too much is under way to the store; nothing was stored.
	ErrBusy = errors.New("store is busy")
	// ErrUnavailable: the store did not answer. The message may or may not have
	// been stored.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrNotFound: nothing is retained on that topic.
	ErrNotFound = errors.New("nothing retained")
	// ErrTopic: a topic is too long for the store; nothing was stored.
	ErrTopic = errors.New("topic is too long")
	// ErrRegion: no region of that name is configured; nothing was forwarded.
	ErrRegion = errors.New("unknown region")
	// ErrForward: the other region does not take this from here; nothing was stored.
	ErrForward = errors.New("refused by the other region")
	// ErrStale is what a StaleError is.
	ErrStale = errors.New("stale")
)

// StaleError says that a retained message was refused because an equal or
// higher version is retained. It is ErrStale.
type StaleError struct {
	Topic    string
	Version  int64 // refused
	Retained int64 // kept
}

func (e *StaleError) Error() string { return fmt.Sprintf("stale: retained version %d", e.Retained) }

// Is makes errors.Is(err, ErrStale) true.
func (e *StaleError) Is(target error) bool { return target == ErrStale }

package fleet

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"groundswell/topics"
)

// The refusals of the domain.
var (
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrStale: the object changed since the caller read it.
	ErrStale = errors.New("changed meanwhile")
	// ErrConflict: it collides with what exists (a name that is taken, a
	// cohort in use, an idempotency key used for another request).
	ErrConflict = errors.New("conflict")
	// ErrTransition: the rollout's state does not allow it.
	ErrTransition = errors.New("not possible in this state")
	// ErrInvalid: a field was refused. Every FieldError is ErrInvalid.
	ErrInvalid = errors.New("invalid")
	// ErrFenced: the writer no longer holds the lease under which it decided.
	ErrFenced = errors.New("lease lost")
	// ErrDecommissioned: the device has ended; see LabelDecommissioned.
	ErrDecommissioned = errors.New("decommissioned")
)

// FieldError names the field of a request that was refused. It is ErrInvalid.
type FieldError struct {
	Pointer string // JSON pointer into the request, such as "/policy/waves/1/percent"
	Problem string
}

func (e *FieldError) Error() string { return e.Pointer + ": " + e.Problem }

// Is makes errors.Is(err, ErrInvalid) true.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// Invalid makes a FieldError.
func Invalid(pointer, format string, args ...any) error {
	return &FieldError{Pointer: pointer, Problem: fmt.Sprintf(format, args...)}
}

// pointed turns a refusal of package topics into a FieldError at pointer. What
// topics calls "waves[2].threshold" becomes pointer + "/waves/2/threshold".
func pointed(pointer string, err error) error {
	if err == nil {
		return nil
	}
	var field *topics.FieldError
	if !errors.As(err, &field) {
		return Invalid(pointer, "%v", err)
	}
	path := strings.NewReplacer("[", "/", "].", "/", "]", "", ".", "/").Replace(field.Field)
	if path != "" {
		pointer += "/" + path
	}
	return &FieldError{Pointer: pointer, Problem: field.Problem}
}

func checkID(pointer, id string) error { return pointed(pointer, topics.CheckID("", id)) }

func optionalID(pointer, id string) error {
	if id == "" {
		return nil
	}
	return checkID(pointer, id)
}

// CheckText returns a FieldError unless text, which is for people, is short
// enough and can be stored: PostgreSQL takes neither U+0000 nor what is not
// UTF-8.
func CheckText(pointer, text string) error {
	switch {
	case len(text) > topics.MaxText:
		return Invalid(pointer, "has more than %d bytes", topics.MaxText)
	case strings.ContainsRune(text, 0):
		return Invalid(pointer, "contains U+0000")
	case !utf8.ValidString(text):
		return Invalid(pointer, "is not UTF-8")
	}
	return nil
}

// index is the pointer of an element.
func index(pointer string, i int) string { return fmt.Sprintf("%s/%d", pointer, i) }

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Actor is who makes a change, for the audit trail.
type Actor struct {
	Name      string // operator's name, or "driver", "ingest", "reconciler"
	RequestID string // absent for what fleetd does by itself
	// Key makes a creation idempotent: the same key by the same actor with
	// the same Hash of the request yields the object that the first one made;
	// another Hash is ErrConflict. Absent: not idempotent.
	Key  string
	Hash string
}

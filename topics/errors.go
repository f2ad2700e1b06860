package topics

import (
	"errors"
	"fmt"
)

// The refusals of this package.
var (
	ErrTopic    = errors.New("not a topic of the contract")
	ErrFilter   = errors.New("malformed topic filter")
	ErrInvalid  = errors.New("invalid payload")
	ErrTooLarge = errors.New("payload too large")
	ErrSchema   = errors.New("payload of a newer schema")
	ErrRefused  = errors.New("not authorized")
)

// FieldError names the field of a payload that was refused. It is ErrInvalid.
type FieldError struct {
	Field   string // path in the JSON text, such as "waves[2].threshold"
	Problem string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Is makes errors.Is(err, ErrInvalid) true.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

func invalid(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// clip bounds what a hostile text can put into an error or a log line.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

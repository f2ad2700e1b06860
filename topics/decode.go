package topics

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// DecodeStatus reads and validates a status.
func DecodeStatus(raw []byte) (Status, error) { return decode[Status](raw, MaxStatus) }

// DecodeHeartbeat reads and validates a heartbeat.
func DecodeHeartbeat(raw []byte) (Heartbeat, error) { return decode[Heartbeat](raw, MaxHeartbeat) }

// DecodeLog reads and validates a log.
func DecodeLog(raw []byte) (Log, error) { return decode[Log](raw, MaxLog) }

// DecodePresence reads and validates a presence.
func DecodePresence(raw []byte) (Presence, error) { return decode[Presence](raw, MaxPresence) }

// DecodeRefusal reads and validates a refusal.
func DecodeRefusal(raw []byte) (Refusal, error) { return decode[Refusal](raw, MaxRefusal) }

// DecodeManifest reads and validates a manifest's body (not its envelope).
func DecodeManifest(raw []byte) (Manifest, error) { return decode[Manifest](raw, MaxManifest) }

// DecodeAssignment reads and validates an assignment's body.
func DecodeAssignment(raw []byte) (Assignment, error) {
	return decode[Assignment](raw, MaxAssignment)
}

// DecodeCommand reads and validates a command's body.
func DecodeCommand(raw []byte) (Command, error) { return decode[Command](raw, MaxCommand) }

// Encode writes a payload, after validating it: what this side sends, the
// other side accepts.
func Encode[T interface{ Validate() error }](payload T) ([]byte, error) {
	if err := payload.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(payload)
}

func decode[T interface{ Validate() error }](raw []byte, limit int) (T, error) {
	var payload, none T
	if len(raw) > limit {
		return none, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(raw), limit)
	}
	if !utf8.Valid(raw) {
		return none, invalid("", "is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&payload); err != nil {
		var typed *json.UnmarshalTypeError
		if errors.As(err, &typed) {
			return none, invalid(typed.Field, "is a JSON %s, which does not fit", typed.Value)
		}
		return none, invalid("", "is not JSON: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return none, invalid("", "has text after its end")
	}
	if err := payload.Validate(); err != nil {
		return none, err
	}
	return payload, nil
}

// CheckDigest returns a FieldError unless d is a SHA-256 in lower-case hex.
func CheckDigest(field, d string) error {
	if len(d) != 64 || strings.Trim(d, "0123456789abcdef") != "" {
		return invalid(field, "is not a SHA-256 in lower-case hex")
	}
	return nil
}

func checkHead(schema int, kind, want, trustDomain string, version int64, issued time.Time) error {
	if err := checkSchema(schema); err != nil {
		return err
	}
	switch {
	case kind != want:
		return invalid("kind", "is %q instead of %q", clip(kind), want)
	case trustDomain == "" || len(trustDomain) > 255:
		return invalid("trust_domain", "must have 1 to 255 bytes")
	case version < 1:
		return invalid("version", "must be at least 1")
	case issued.IsZero():
		return invalid("issued", "is absent")
	case issued.Nanosecond() != 0:
		return invalid("issued", "must be in whole seconds")
	}
	return nil
}

func checkSchema(schema int) error {
	switch {
	case schema > Schema:
		return fmt.Errorf("schema: %w: %d, known up to %d", ErrSchema, schema, Schema)
	case schema < 1:
		return invalid("schema", "must be at least 1")
	}
	return nil
}

func checkOrder(epoch, sequence int64) error {
	switch {
	case epoch < 1:
		return invalid("epoch", "must be at least 1")
	case sequence < 1:
		return invalid("sequence", "must be at least 1")
	}
	return nil
}

func checkSlugs(field string, values []string, least int) error {
	if len(values) < least {
		return invalid(field, "must name at least %d", least)
	}
	if len(values) > 64 {
		return invalid(field, "names more than 64")
	}
	seen := make(map[string]bool, len(values))
	for i, v := range values {
		if err := CheckID(index(field, i), v); err != nil {
			return err
		}
		if seen[v] {
			return invalid(index(field, i), "%q stands twice", v)
		}
		seen[v] = true
	}
	return nil
}

func checkText(field, text string, limit int) error {
	if len(text) > limit {
		return invalid(field, "has more than %d bytes", limit)
	}
	return nil
}

func checkLength(field string, n, limit int64) error {
	if n < 1 || n > limit {
		return invalid(field, "must be from 1 to %d bytes", limit)
	}
	return nil
}

func notNegative(field string, n int64) error {
	if n < 0 {
		return invalid(field, "must not be negative")
	}
	return nil
}

func optional(value string, check func(string) error) error {
	if value == "" {
		return nil
	}
	return check(value)
}

func oneOf[T ~string](field string, value T, known ...T) error {
	for _, k := range known {
		if value == k {
			return nil
		}
	}
	return invalid(field, "%q is not known here", clip(string(value)))
}

func index(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

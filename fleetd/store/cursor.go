package store

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"groundswell/fleetd/fleet"
)

// Page asks for a piece of a list.
type Page struct {
	Limit  int    // 0: 100; at most 1000
	Cursor string // what the piece before gave as next; "": from the beginning
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// start checks the page and reads the cursor's keys into after, if there is
// one. A cursor is opaque to callers: keys of the last row, as base64 of JSON.
func (p Page) start(after ...any) (limit int, err error) {
	limit = p.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	if limit < 1 || limit > maxLimit {
		return 0, fleet.Invalid("/limit", "must be from 1 to %d", maxLimit)
	}
	if p.Cursor == "" {
		return limit, nil
	}
	malformed := fleet.Invalid("/cursor", "is not a cursor that this list gave")
	text, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil || len(p.Cursor) > 1024 || strings.Contains(string(text), `\u0000`) {
		return 0, malformed
	}
	var raw []json.RawMessage
	if json.Unmarshal(text, &raw) != nil || len(raw) != len(after) {
		return 0, malformed
	}
	for i := range raw {
		if string(raw[i]) == "null" || json.Unmarshal(raw[i], after[i]) != nil {
			return 0, malformed
		}
	}
	return limit, nil
}

// cut ends a list that was read with one row more than the limit, and makes
// the cursor of what follows.
func cut[T any](rows []T, limit int, keys func(T) []any) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	rows = rows[:limit]
	text, err := json.Marshal(keys(rows[limit-1]))
	if err != nil {
		panic(err) // texts and numbers only
	}
	return rows, base64.RawURLEncoding.EncodeToString(text)
}

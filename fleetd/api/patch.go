package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"groundswell/fleetd/fleet"
)

// patched is a property of a merge patch (RFC 7396): absent, it stays; null
// takes it away.
type patched[T any] struct {
	given bool
	value T // zero for null
}

// UnmarshalJSON is only called for a property that is there.
func (p *patched[T]) UnmarshalJSON(raw []byte) error {
	*p = patched[T]{given: true}
	if bytes.Equal(raw, []byte("null")) {
		return nil
	}
	return json.Unmarshal(raw, &p.value)
}

// Schema is T's, or null. (Of a reference that cannot be said; huma checks
// nothing about a null that stands for a property that may be absent.)
func (p patched[T]) Schema(r huma.Registry) *huma.Schema {
	schema := *r.Schema(reflect.TypeFor[T](), true, "")
	schema.Nullable = schema.Ref == ""
	return &schema
}

func (p patched[T]) apply(to *T) {
	if p.given {
		*to = p.value
	}
}

// current is ErrStale unless what is patched still has the revision that the
// caller has seen: what it says is about something else then.
func current(object string, has, seen int64) error {
	if has == seen {
		return nil
	}
	return fmt.Errorf("%s has revision %d, not %d: %w", object, has, seen, fleet.ErrStale)
}

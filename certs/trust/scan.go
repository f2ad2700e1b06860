package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// Sizes in bytes, checked before anything is parsed. Manifests, assignments
// and commands are bounded by topics.MaxPayload.
const (
	MaxRoot      = 128 << 10
	MaxTargets   = 8 << 20
	MaxSnapshot  = 64 << 10
	MaxTimestamp = 64 << 10
)

const (
	maxDepth   = 16
	maxInteger = 1<<53 - 1
)

// scan refuses JSON whose meaning depends on who reads it, before go-tuf reads
// it:
//
//   - a name that stands twice in an object, because of two readers one may
//     take the first and the other the last, or merge them;
//   - null, because go-tuf 2.4.2 dereferences a null target;
//   - a number that is not an integer of at most 53 bits, because go-tuf keeps
//     unknown fields as float64 and would verify a rounded number;
//   - text that is not UTF-8, more than one document, more than 16 levels;
//   - at the top, anything but "signed" and "signatures", because encoding/json
//     would also take "Signed" for "signed".
func scan(raw []byte, limit int) error {
	if len(raw) > limit {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(raw), limit)
	}
	if !utf8.Valid(raw) {
		return malformed("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	names, err := scanValue(d, 0)
	if err != nil {
		return err
	}
	if len(names) != 2 || !names["signed"] || !names["signatures"] {
		return malformed("not an object of exactly signed and signatures")
	}
	if _, err := d.Token(); err != io.EOF {
		return malformed("text after the end")
	}
	return nil
}

// scanValue returns the names of the value when it is an object.
func scanValue(d *json.Decoder, depth int) (map[string]bool, error) {
	if depth > maxDepth {
		return nil, malformed("more than %d levels", maxDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, malformed("%w", err)
	}
	switch token := token.(type) {
	case nil:
		return nil, malformed("null at byte %d", d.InputOffset())
	case json.Number:
		n, err := strconv.ParseInt(token.String(), 10, 64)
		if err != nil || n > maxInteger || n < -maxInteger {
			return nil, malformed("number %.30q is not an exact integer", token.String())
		}
		return nil, nil
	case json.Delim:
		if token == '[' {
			for d.More() {
				if _, err := scanValue(d, depth+1); err != nil {
					return nil, err
				}
			}
			return nil, closing(d)
		}
		names := map[string]bool{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, malformed("%w", err)
			}
			if names[name.(string)] { // inside an object the decoder gives only strings here
				return nil, malformed("name %.60q stands twice", name)
			}
			names[name.(string)] = true
			if _, err := scanValue(d, depth+1); err != nil {
				return nil, err
			}
		}
		return names, closing(d)
	}
	return nil, nil
}

func closing(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return malformed("%w", err)
	}
	return nil
}

// plain turns a value into the JSON tree that go-tuf will sign: no nulls
// (absent means the same) and nothing that scan would refuse.
func plain(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	return withoutNulls(tree), nil
}

func withoutNulls(tree any) any {
	switch tree := tree.(type) {
	case map[string]any:
		for name, value := range tree {
			if value == nil {
				delete(tree, name)
			} else {
				tree[name] = withoutNulls(value)
			}
		}
	case []any:
		for i, value := range tree {
			tree[i] = withoutNulls(value)
		}
	}
	return tree
}

package topics

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGoldensStillRead holds the contract to its past: every golden, one per
// payload and schema, is read to the end of time and written back with the same
// meaning. Goldens are added and never edited.
func TestGoldensStillRead(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.json")
	if err != nil || len(files) < len(channels) {
		t.Fatalf("%d goldens, want at least one per payload (%d): %v", len(files), len(channels), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			kind, _, _ := strings.Cut(filepath.Base(file), "-")
			payload, err := decodeKind(Kind(kind), raw)
			if err != nil {
				t.Fatal(err)
			}
			written, err := json.Marshal(payload)
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := json.Unmarshal(written, &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("read and written back (-golden +got):\n%s", diff)
			}
		})
	}
}

// TestUnknownFieldsAreIgnored and newer schemas are refused: that is how the
// contract grows.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	raw, err := os.ReadFile("testdata/golden/status-1.json")
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	fields["invented_in_2031"] = map[string]any{"x": 1}
	grown, _ := json.Marshal(fields)
	if _, err := DecodeStatus(grown); err != nil {
		t.Errorf("a field of the future was refused: %v", err)
	}
	fields["schema"] = Schema + 1
	newer, _ := json.Marshal(fields)
	mustRefuse(t, ErrSchema, func() error { _, err := DecodeStatus(newer); return err })
}

func decodeKind(kind Kind, raw []byte) (any, error) {
	switch kind {
	case KindManifest:
		return DecodeManifest(raw)
	case KindAssignment:
		return DecodeAssignment(raw)
	case KindCommand:
		return DecodeCommand(raw)
	case KindStatus:
		return DecodeStatus(raw)
	case KindHeartbeat:
		return DecodeHeartbeat(raw)
	case KindLog:
		return DecodeLog(raw)
	case KindPresence:
		return DecodePresence(raw)
	case KindRefusal:
		return DecodeRefusal(raw)
	}
	return nil, ErrTopic
}

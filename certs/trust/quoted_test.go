package trust

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TestAnErrorQuotesLittleOfWhatWasMadeUp: parsers name what they refuse in full.
func TestAnErrorQuotesLittleOfWhatWasMadeUp(t *testing.T) {
	raw := `{"signatures":[],"signed":{"_type":"root","spec_version":"1.0.31","version":2,"expires":"` + strings.Repeat("<", 2500) + `"}}`
	_, err := parse[metadata.RootType]([]byte(raw), 1<<20)
	if !errors.Is(err, ErrMalformed) || len(err.Error()) > 300 {
		t.Errorf("%d bytes: %.200v", len(err.Error()), err)
	}
	if inner := (*time.ParseError)(nil); !errors.As(err, &inner) {
		t.Errorf("what is wrong is lost: %T", err)
	}
}

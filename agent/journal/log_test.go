package journal

import (
	"strings"
	"testing"

	"groundswell/topics"
)

// TestALogKeepsItsLastLines: they say what went wrong, and however long a text becomes on
// its way, they arrive.
func TestALogKeepsItsLastLines(t *testing.T) {
	lines := func(line string, size int) string {
		return strings.Repeat(line+"\n", size/(len(line)+1)) + "panic: this is why\n"
	}
	for name, c := range map[string]struct{ text, line string }{
		"too long":         {lines("line", topics.MaxLog), "line"},
		"escaped":          {lines("<\x01>&", topics.MaxLog/2), "<\x01>&"},
		"redacted":         {lines("token=x", topics.MaxLog/2-20), "token=[redacted]"},
		"of several bytes": {lines("ü€", topics.MaxLog), "ü€"},
		"short":            {lines("line", 100), "line"},
	} {
		j := open(t, t.TempDir(), begun)
		update1(t, j, func(r *Record) error { return r.QueueLog(topics.Log{Source: "agent", Text: c.text, At: begun}) })
		report, _ := j.Next()
		l, err := topics.DecodeLog(report.Payload)
		if err != nil || !strings.HasSuffix(l.Text, "\npanic: this is why\n") || !strings.HasPrefix(l.Text, c.line+"\n") {
			t.Errorf("%s: %v, %d bytes: %.20q ... %q", name, err, len(l.Text), l.Text, l.Text[max(0, len(l.Text)-30):])
		}
	}
	for n, want := range map[int]string{3: "ht\n", 4: "ght\n", 6: "eight\n", 8: "eight\n", 12: "seven\neight\n", 50: "six\nseven\neight\n"} {
		if got := clipFront("six\nseven\neight\n", n); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
}

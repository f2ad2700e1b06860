package health

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// gauge is a metric that is what the file beside it says.
func gauge(t *testing.T) (check Check, set func(text string)) {
	t.Helper()
	dir := t.TempDir()
	path := script(t, dir, "gauge", `cat "`+filepath.Join(dir, "value")+`"`)
	return Check{Name: "frames", Metric: []string{path}}, func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "value"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMetricIsComparedWithTheTimeBefore(t *testing.T) {
	check, set := gauge(t)
	check.MinPercent, check.MaxPercent, check.Slack = 80, 150, 1
	cfg := Config{Checks: []Check{check}, Interval: time.Millisecond, Timeout: 10 * time.Second}
	set("20 frames per second\n")
	if before, err := Measure(t.Context(), cfg, Component{}); err == nil || len(before) != 0 {
		t.Errorf("measured %v, %v", before, err)
	}
	set("20\nper second\n")
	before, err := Measure(t.Context(), cfg, Component{})
	if err != nil || before["frames"] != 20 {
		t.Fatalf("measured %v, %v", before, err)
	}
	for _, c := range []struct {
		now, want string // "": it holds
	}{
		{"20", ""}, {"15", ""}, {"31", ""}, {"14.9", "is 14.9, and was 20 before the update: at least 15 is allowed"},
		{"31.5", "at most 31 is allowed"}, {"many", "not a number"}, {"NaN", "not a number"}, {"", "not a number"},
	} {
		set(c.now)
		p := newExaminer(Config{Checks: cfg.Checks, Before: before}).ask(t.Context(), 10*time.Second, Component{})
		if (p == nil) != (c.want == "") || p != nil && (p.kind != "metric" || !strings.Contains(p.err.Error(), c.want) || !strings.Contains(p.err.Error(), "frames")) {
			t.Errorf("%q: %+v, want %q", c.now, p, c.want)
		}
		if p := newExaminer(Config{Checks: cfg.Checks}).ask(t.Context(), 10*time.Second, Component{}); p != nil {
			t.Errorf("%q is compared with nothing: %+v", c.now, p)
		}
	}
}

func TestMetricsThatMakeNoSense(t *testing.T) {
	ok := Check{Name: "frames", Metric: []string{"/bin/frames"}, MinPercent: 80}
	for _, c := range []struct {
		key    string
		change func(*Check)
	}{
		{"name", func(c *Check) { c.Name = "" }},
		{"metric", func(c *Check) { c.Metric = []string{"frames"} }},
		{"min_percent", func(c *Check) { c.MinPercent = 0 }},
		{"min_percent", func(c *Check) { c.MinPercent = -1 }},
		{"max_percent", func(c *Check) { c.MaxPercent = 50 }},
		{"slack", func(c *Check) { c.Slack = -1 }},
		{"min_percent", func(c *Check) { c.Metric, c.TCP = nil, "127.0.0.1:80" }},
	} {
		check := ok
		c.change(&check)
		if err := ValidateChecks("health.checks", []Check{check}); err == nil || !strings.HasPrefix(err.Error(), "health.checks[0]: "+c.key) {
			t.Errorf("%+v: %v, want %s", check, err, c.key)
		}
	}
	if err := ValidateChecks("health.checks", []Check{ok, ok}); err == nil || !strings.Contains(err.Error(), "two metrics") {
		t.Error(err)
	}
	if err := ValidateChecks("health.checks", []Check{ok}); err != nil {
		t.Error(err)
	}
}

package peers

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"groundswell/agent/condition"
)

const here = "fleet.example.org"

func site(t *testing.T) *Site {
	t.Helper()
	return New(Options{Config: Default(), Device: "cam-1", TrustDomain: here})
}

// TestWhatIsAnnouncedIsReadBack, and what is not of this fleet, or nonsense, is nothing.
func TestWhatIsAnnouncedIsReadBack(t *testing.T) {
	var artifacts, short []string
	for i := range 20 {
		artifacts = append(artifacts, strings.Repeat(fmt.Sprintf("%016x", i), 4))
		short = append(short, fmt.Sprintf("%016x", i))
	}
	got, ok := artifactsOf(Text(here, artifacts), here)
	if !ok || !slices.Equal(got, short[:maxAnnounced]) {
		t.Errorf("%v, %v", got, ok)
	}
	if got, ok := artifactsOf(Text(here, nil), here); !ok || len(got) > 0 {
		t.Errorf("%v, %v", got, ok)
	}
	for _, text := range append(Text(here, artifacts), Text(here, nil)...) {
		if len(text) > 255 {
			t.Errorf("%d bytes", len(text))
		}
	}
	for name, text := range map[string][]string{
		"nothing": nil, "another fleet": Text("other.example.org", artifacts), "another version": {"v=2", "d=" + domain(here), "a="},
		"no digest": {"v=1", "d=" + domain(here), "a=../x"}, "too many": {"v=1", "d=" + domain(here), "a=" + strings.Join(short, ",")},
		"the first key counts": {"v=2", "v=1", "d=" + domain(here)},
	} {
		if got, ok := artifactsOf(text, here); ok {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	good := Default()
	good.Listen, good.Interfaces = ":8447", []string{"eth0"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	off := Default()
	if err := off.Validate(); err != nil {
		t.Error(err)
	}
	for key, change := range map[string]func(*Config){
		"listen: is missing":     func(c *Config) { c.Listen = "" },
		"listen: \"8447\"":       func(c *Config) { c.Listen = "8447" },
		"interfaces: is":         func(c *Config) { c.Interfaces = nil },
		"interfaces[0]":          func(c *Config) { c.Interfaces[0] = "a-name-that-is-too-long" },
		"interfaces[1]":          func(c *Config) { c.Interfaces = []string{"eth0", "eth0"} },
		"static[0]":              func(c *Config) { c.Static = []string{"cam-1:8447"} },
		"static[1]":              func(c *Config) { c.Static = []string{"10.0.0.1:1", "10.0.0.1:1"} },
		"static: at most":        func(c *Config) { c.Static = make([]string, 65) },
		"max_uploads":            func(c *Config) { c.MaxUploads = 0 },
		"upload_rate":            func(c *Config) { c.UploadRate = 4*minRate - 1 },
		"facts[0].command: must": func(c *Config) { c.Facts = append(c.Facts, factOf("unmetered")) },
	} {
		c := good
		c.Interfaces = slices.Clone(good.Interfaces)
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func factOf(name string) condition.Fact { return condition.Fact{Name: name} }

// TestOnlyOneDeviceIsElected by all that see the same ones, and each in its turn.
func TestOnlyOneDeviceIsElected(t *testing.T) {
	var names []string
	for i := range 10 {
		names = append(names, Name(here, fmt.Sprintf("cam-%d", i)))
	}
	elected := map[string]int{}
	for segment := range 1000 {
		best := slices.MaxFunc(names, func(a, b string) int {
			return strings.Compare(weight("0123456789abcdef", segment, a), weight("0123456789abcdef", segment, b))
		})
		elected[best]++
	}
	for _, name := range names {
		if n := elected[name]; n < 60 || n > 140 {
			t.Errorf("%s is elected %d times of 1000", name, n)
		}
	}
}

// FuzzDecodeState: what a peer says is bounded and never below 0.
func FuzzDecodeState(f *testing.F) {
	for _, seed := range []string{`{"have":1,"making":true,"fetching":5}`, `{"have":-1}`, `{"have":1e99}`, `[]`, ``, `{"have":9223372036854775807}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if v, err := decodeState(raw); err == nil && (v.Have < 0 || v.Fetching < 0) {
			t.Errorf("%+v", v)
		}
	})
}

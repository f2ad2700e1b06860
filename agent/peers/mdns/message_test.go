package mdns

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

var cam = Service{Name: "0123456789abcdef", Port: 8447, Text: []string{"v=1", "d=01234567", "a=0123456789abcdef"}}

func must(t testing.TB) func(raw []byte, err error) []byte {
	return func(raw []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
}

func announcing(t testing.TB, s Service, life time.Duration) []byte {
	t.Helper()
	return must(t)(announcement(s, life, []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fe80::1")}))
}

func TestWhatIsAnnouncedIsRead(t *testing.T) {
	for _, life := range []time.Duration{TTL, time.Minute, 0} {
		m, err := read(announcing(t, cam, life))
		if diff := cmp.Diff([]announced{{cam, life}}, m.services, cmp.AllowUnexported(announced{})); err != nil || diff != "" || !m.response {
			t.Error(err, diff)
		}
	}
	// Other programs read it as what it says.
	var p dnsmessage.Parser
	h, err := p.Start(announcing(t, cam, TTL))
	if err != nil || !h.Response || !h.Authoritative || h.ID != 0 {
		t.Errorf("%+v, %v", h, err)
	}
	if err := p.SkipAllQuestions(); err != nil {
		t.Fatal(err)
	}
	answers, err := p.AllAnswers()
	if err != nil || len(answers) != 4 {
		t.Fatal(answers, err)
	}
	for i, want := range []struct {
		name  string
		flush bool
	}{{serviceName, false}, {cam.Name + "." + serviceName, true}, {cam.Name + "." + serviceName, true}, {browseName, false}} {
		if a := answers[i].Header; a.Name.String() != want.name || a.Class&flush != 0 != want.flush || a.TTL != 4500 {
			t.Errorf("%+v", a)
		}
	}
	if srv := answers[1].Body.(*dnsmessage.SRVResource); srv.Port != cam.Port || srv.Target.String() != cam.Name+".local." {
		t.Errorf("%+v", srv)
	}
	if more, err := func() ([]dnsmessage.Resource, error) { _ = p.SkipAllAuthorities(); return p.AllAdditionals() }(); err != nil || len(more) != 2 {
		t.Error(more, err)
	}
}

// TestQuestionsAreAnsweredOnce: not by whom who asks knows already, and not about others.
func TestQuestionsAreAnsweredOnce(t *testing.T) {
	asks := func(raw []byte) bool {
		t.Helper()
		m, err := read(raw)
		if err != nil || m.response {
			t.Fatal(err)
		}
		return wanted(m, cam.Name)
	}
	if !asks(must(t)(question(nil))) || !asks(must(t)(question([]string{"fedcba9876543210"}))) {
		t.Error("who is asked does not answer")
	}
	if asks(must(t)(question([]string{"fedcba9876543210", cam.Name}))) {
		t.Error("who is known answers")
	}
	if raw := must(t)(question(slices.Repeat([]string{cam.Name}, 1000))); len(raw) > 1400 {
		t.Errorf("a question has %d bytes", len(raw))
	}
	about := func(name string, kind dnsmessage.Type, class dnsmessage.Class) bool {
		t.Helper()
		b := dnsmessage.NewBuilder(nil, dnsmessage.Header{})
		if err := errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: class})); err != nil {
			t.Fatal(err)
		}
		return asks(must(t)(b.Finish()))
	}
	const in = dnsmessage.ClassINET
	for _, c := range []struct {
		name  string
		kind  dnsmessage.Type
		class dnsmessage.Class
		want  bool
	}{
		{strings.ToUpper(serviceName), dnsmessage.TypePTR, in, true}, {serviceName, dnsmessage.TypePTR, in | flush, true},
		{serviceName, dnsmessage.TypeALL, dnsmessage.ClassANY, true}, {browseName, dnsmessage.TypePTR, in, true},
		{cam.Name + "." + serviceName, dnsmessage.TypeSRV, in, true}, {cam.Name + ".local.", dnsmessage.TypeA, in, true},
		{serviceName, dnsmessage.TypeSRV, in, false}, {serviceName, dnsmessage.TypePTR, dnsmessage.ClassCHAOS, false},
		{"_ipp._tcp.local.", dnsmessage.TypePTR, in, false}, {"fedcba9876543210." + serviceName, dnsmessage.TypeTXT, in, false},
	} {
		if got := about(c.name, c.kind, c.class); got != c.want {
			t.Errorf("%s %v %v: %v", c.name, c.kind, c.class, got)
		}
	}
}

// hostile are packets that anybody on the LAN may send.
func hostile(t testing.TB) map[string][]byte {
	good := announcing(t, cam, TTL)
	many := func(n int, add func(b *dnsmessage.Builder) error) []byte {
		b := dnsmessage.NewBuilder(nil, dnsmessage.Header{Response: true})
		b.EnableCompression()
		for range n {
			if err := add(&b); err != nil {
				t.Fatal(err)
			}
		}
		return must(t)(b.Finish())
	}
	begun := false
	loop := slices.Clone(good)
	copy(loop[12:], []byte{0xc0, 12}) // a name that points at itself
	coded := slices.Clone(good)
	coded[2] |= 5 << 3 // an update
	return map[string][]byte{
		"nothing": nil, "a piece of a header": good[:5], "cut short": good[:len(good)-1], "too large": append(good, make([]byte, maxPacket)...),
		"a loop": loop, "no query": coded, "counts that lie": append([]byte{0, 0, 0x84, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0}, good[12:]...),
		"too many records": many(maxRecords+1, func(b *dnsmessage.Builder) error {
			if !begun {
				begun = true
				if err := b.StartAnswers(); err != nil {
					return err
				}
			}
			return b.PTRResource(header(dnsmessage.MustNewName(serviceName), TTL, 0), dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(serviceName)})
		}),
	}
}

func TestHostilePacketsAreRefused(t *testing.T) {
	for name, raw := range hostile(t) {
		if m, err := read(raw); !errors.Is(err, ErrPacket) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	for name, s := range map[string]Service{
		"a name that is none": {Name: "0123456789abcdeX", Port: 1}, "another's name": {Name: "0123456789abcdef.0123456789abcdef", Port: 1}, "no port": {Name: cam.Name},
	} {
		raw, err := announcement(s, TTL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := read(raw); err != nil || len(m.services) != 0 {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	long := cam
	long.Text = []string{strings.Repeat("x", 256)}
	if _, err := announcement(long, TTL, nil); err == nil {
		t.Error("a text of 256 bytes is announced")
	}
}

// FuzzRead: whatever is read is bounded, and can be announced as it was read.
func FuzzRead(f *testing.F) {
	for _, raw := range hostile(f) {
		f.Add(raw)
	}
	f.Add(announcing(f, cam, TTL))
	f.Add(must(f)(question([]string{cam.Name})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := read(raw)
		if err != nil {
			if !errors.Is(err, ErrPacket) {
				t.Error(err)
			}
			return
		}
		if len(m.asked) > maxQuestions || len(m.services) > maxRecords || len(m.known) > maxRecords {
			t.Errorf("%d questions, %d services, %d known", len(m.asked), len(m.services), len(m.known))
		}
		for _, s := range m.services {
			if s.Port == 0 || len(s.Name) != 16 || s.ttl > TTL {
				t.Errorf("%+v", s)
			}
			again, err := announcement(s.Service, s.ttl, nil)
			if err != nil {
				t.Errorf("%+v: %v", s, err)
				continue
			}
			if b, err := read(again); err != nil || len(b.services) != 1 || !bytes.Equal([]byte(b.services[0].Name), []byte(s.Name)) {
				t.Errorf("%+v becomes %+v, %v", s, b.services, err)
			}
		}
		wanted(m, cam.Name)
	})
}

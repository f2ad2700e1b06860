package peers

import (
	"errors"
	"net/http"
	"testing"

	"groundswell/internal/block"
)

// TestNobodyIsSentElsewhere by a peer: it would be asked there with this device's certificate.
func TestNobodyIsSentElsewhere(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 1<<20)
		l.serve("198.18.0.2:8447", "elsewhere", a.all())
		l.serve("198.18.0.1:8447", "sends", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://198.18.0.2:8447"+r.URL.Path, http.StatusTemporaryRedirect)
		})
		s := l.site("198.18.0.1:8447")
		sh := s.Join(a.name, a.index, "")
		defer sh.Leave()
		if sh.News(t.Context(), 0) || l.called("198.18.0.2:8447") > 0 {
			t.Error("it goes there")
		}
		if c := s.devices["sends"]; c == nil || c.strikes != 1 {
			t.Errorf("%+v", c)
		}
	})
}

// TestWhoSentSomethingWrongIsKnownElsewhere: what it says at another place is not taken.
func TestWhoSentSomethingWrongIsKnownElsewhere(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 1<<20)
		l.serve("198.18.0.1:8447", "evil", a.all())
		l.serve("198.18.0.2:8447", "evil", a.all())
		s := l.site("198.18.0.1:8447", "198.18.0.2:8447")
		first, second := s.near["198.18.0.1:8447"], s.near["198.18.0.2:8447"]
		if _, err := s.ask(t.Context(), first, a.name, 0, 0); err != nil {
			t.Fatal(err)
		}
		s.fault(first, block.ErrWrong)
		if v, err := s.ask(t.Context(), second, a.name, 0, 0); !errors.Is(err, errDropped) {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

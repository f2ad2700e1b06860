package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
)

// answer is what a source sends with the right bytes: what is to be refused is so for what it
// says of them.
type answer struct {
	status   int
	header   http.Header
	from, to int  // bytes of the firmware
	unknown  bool // it does not say how many
}

func (a answer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if !a.unknown {
		w.Header().Set("Content-Length", fmt.Sprint(a.to-a.from))
	}
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.status)
	if a.unknown {
		w.(http.Flusher).Flush()
	}
	_, _ = w.Write(firmware[a.from:a.to])
}

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// TestARangeIsWhatWasAskedForOrRefused: of the very object, or nothing is read of it.
func TestARangeIsWhatWasAskedForOrRefused(t *testing.T) {
	const right = "bytes 1000-1999/300000"
	tag := `"` + artifact().SHA256 + `"`
	for _, c := range []struct {
		name     string
		from, to int64
		answer   answer
		want     error // of Range; nil: none
		read     error // of reading
	}{
		{"right", 1000, 2000, answer{206, headers("Content-Range", right, "ETag", tag), 1000, 2000, false}, nil, nil},
		{"without a tag or a length", 1000, 2000, answer{206, headers("Content-Range", right), 1000, 2000, true}, nil, nil},
		{"all of it, which was asked for", 0, 300_000, answer{200, headers("ETag", tag), 0, 300_000, false}, nil, nil},
		{"more than it says", 1000, 2000, answer{206, headers("Content-Range", right), 1000, 5000, true}, nil, nil},
		{"less than it says", 1000, 2000, answer{206, headers("Content-Range", right), 1000, 1500, true}, nil, ErrCut},
		{"another beginning", 1000, 2000, answer{206, headers("Content-Range", "bytes 999-1999/300000"), 1000, 2000, false}, ErrRange, nil},
		{"another end", 1000, 2000, answer{206, headers("Content-Range", "bytes 1000-2000/300000"), 1000, 2000, false}, ErrRange, nil},
		{"of another length", 1000, 2000, answer{206, headers("Content-Range", "bytes 1000-1999/300001"), 1000, 2000, false}, ErrRange, nil},
		{"of no length", 1000, 2000, answer{206, headers("Content-Range", "bytes 1000-1999/*"), 1000, 2000, false}, ErrRange, nil},
		{"it does not say which", 1000, 2000, answer{206, headers("ETag", tag), 1000, 2000, false}, ErrRange, nil},
		{"two at once", 1000, 2000, answer{206, headers("Content-Range", right, "Content-Range", "bytes 0-999/300000"), 1000, 2000, false}, ErrRange, nil},
		{"of something else", 1000, 2000, answer{206, headers("Content-Range", right, "ETag", `"other"`), 1000, 2000, false}, ErrRange, nil},
		{"of what is like it", 1000, 2000, answer{206, headers("Content-Range", right, "ETag", "W/"+tag), 1000, 2000, false}, ErrRange, nil},
		{"longer", 1000, 2000, answer{206, headers("Content-Range", right), 1000, 2001, false}, ErrRange, nil},
		{"shorter", 1000, 2000, answer{206, headers("Content-Range", right), 1000, 1999, false}, ErrRange, nil},
		{"compressed", 1000, 2000, answer{206, headers("Content-Range", right, "Content-Encoding", "gzip"), 1000, 2000, false}, ErrEncoding, nil},
		{"all of it", 1000, 2000, answer{200, headers("ETag", tag), 0, 300_000, false}, ErrRange, nil},
		{"all of it for the beginning", 0, 2000, answer{200, headers("ETag", tag), 0, 2000, false}, ErrRange, nil},
		{"all of it for the end", 1000, 300_000, answer{200, headers("ETag", tag), 1000, 300_000, false}, ErrRange, nil},
		{"all of something else", 0, 300_000, answer{200, headers("ETag", `"other"`), 0, 300_000, false}, ErrRange, nil},
		{"partly nothing", 1000, 2000, answer{204, headers("Content-Length", "0"), 0, 0, false}, ErrRange, nil},
		{"no such range", 1000, 2000, answer{416, nil, 0, 0, false}, ErrRange, nil},
		{"gone", 1000, 2000, answer{410, nil, 0, 0, false}, ErrNotFound, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSource(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("If-Range"); got != tag {
					t.Errorf("asked for what is %q", got)
				}
				c.answer.ServeHTTP(w, r)
			})
			o := Object{Path: "artifacts/x", Tag: artifact().SHA256, Length: int64(len(firmware))}
			body, err := client(t, s.URL).Range(t.Context(), s.URL, o, c.from, c.to)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if want := fmt.Sprintf("bytes=%d-%d", c.from, c.to-1); !slices.Equal(s.asked(), []string{want}) {
				t.Errorf("asked for %q", s.asked())
			}
			if err != nil {
				return
			}
			defer body.Close()
			if got, err := io.ReadAll(body); !errors.Is(err, c.read) || err == nil && !bytes.Equal(got, firmware[c.from:c.to]) {
				t.Errorf("%d bytes: %v", len(got), err)
			}
		})
	}
}

// TestNothingIsTakenOfWhatIsRefused: the next source is asked for what was missing before.
func TestNothingIsTakenOfWhatIsRefused(t *testing.T) {
	const right = "bytes 1000-299999/300000"
	tag := `"` + artifact().SHA256 + `"`
	for _, c := range []struct {
		name   string
		have   int
		answer answer
		second []string // ranges that the other source is asked for
	}{
		{"nothing is refused", 1000, answer{206, headers("Content-Range", right, "ETag", tag), 1000, 300_000, false}, nil},
		{"nor where it says little", 1000, answer{206, headers("Content-Range", right), 1000, 300_000, true}, nil},
		{"another beginning", 1000, answer{206, headers("Content-Range", "bytes 999-299999/300000"), 1000, 300_000, false}, []string{"bytes=1000-"}},
		{"of another length", 1000, answer{206, headers("Content-Range", "bytes 1000-299999/300001"), 1000, 300_000, false}, []string{"bytes=1000-"}},
		{"it does not say which", 1000, answer{206, headers("ETag", tag), 1000, 300_000, false}, []string{"bytes=1000-"}},
		{"two at once", 1000, answer{206, headers("Content-Range", right, "Content-Range", "bytes 0-999/300000"), 1000, 300_000, false}, []string{"bytes=1000-"}},
		{"of something else", 1000, answer{206, headers("Content-Range", right, "ETag", `"other"`), 1000, 300_000, false}, []string{"bytes=1000-"}},
		{"shorter", 1000, answer{206, headers("Content-Range", right), 1000, 299_999, false}, []string{"bytes=1000-"}},
		{"compressed", 1000, answer{206, headers("Content-Range", right, "Content-Encoding", "br"), 1000, 300_000, false}, []string{"bytes=1000-"}},
		{"a range that was not asked for", 0, answer{206, headers("Content-Range", "bytes 0-299999/300000"), 0, 300_000, false}, []string{""}},
		{"all of it, and shorter", 0, answer{200, nil, 0, 299_999, false}, []string{""}},
		{"all of it, and longer", 0, answer{200, headers("Content-Length", "300001"), 0, 300_000, false}, []string{""}},
		{"all of it, compressed", 0, answer{200, headers("Content-Encoding", "br"), 0, 300_000, false}, []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := newSource(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("If-Range"); (c.have > 0) != (got == tag) {
					t.Errorf("asked for the rest of what is %q", got)
				}
				c.answer.ServeHTTP(w, r)
			})
			second := newSource(t, honest)
			path := begun(t, c.have)
			if err := client(t, first.URL, second.URL).Artifact(t.Context(), artifact(), path, nil); err != nil {
				t.Fatal(err)
			}
			mustBe(t, path, firmware)
			if got := second.asked(); !slices.Equal(got, c.second) || len(first.asked()) != 1 {
				t.Errorf("asked for %q, then %q, want %q", first.asked(), got, c.second)
			}
		})
	}
}

package peers

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"groundswell/certs"
	"groundswell/internal/block"
)

const (
	connectTime = 5 * time.Second
	queueTime   = 2 * time.Second  // how long a request waits for its turn to be given a block
	maxWait     = 30 * time.Second // how long one may wait for a block to come
	perDevice   = 8                // requests of one device at once
	chunk       = 16 << 10         // bytes that are written at once
)

// state is how much of an artifact a device has: the answer to GET /artifacts/{sha256}.
type state struct {
	Have int `json:"have"` // the first so many blocks
	// Making: more are to come. Fetching: blocks below this one are being fetched from
	// the origin.
	Making   bool `json:"making,omitempty"`
	Fetching int  `json:"fetching,omitempty"`
}

// serve answers the others, until ctx ends.
func (s *Site) serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /blocks/{sha256}", s.giveBlock)
	mux.HandleFunc("GET /artifacts/{sha256}", s.giveState)
	mux.HandleFunc("GET /documents/{sha256}", s.giveDocument)
	d := &door{Listener: s.listener, interfaces: s.opt.Interfaces, devices: map[string]int{}}
	server := &http.Server{
		// A handshake has as long as the header of a request.
		Handler: s.admit(d, mux), ConnState: d.state, ReadHeaderTimeout: connectTime, IdleTimeout: time.Minute, MaxHeaderBytes: 4 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // who is in the middle asks somebody else
	err := server.Serve(tls.NewListener(d, s.opt.TLS))
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// admit lets devices in, while this one takes part.
func (s *Site) admit(d *door, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 { // nobody waits for it, for whom there would be no end
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
			http.Error(w, "a body", http.StatusBadRequest)
			return
		}
		id, err := certs.PeerIdentity(*r.TLS) // the handshake has verified it
		if err != nil {
			http.Error(w, "no identity", http.StatusForbidden)
			return
		}
		if d.crowded(id.Name) {
			w.Header().Set("Connection", "close")
		}
		s.mu.Lock()
		ok := s.out == "" && s.asking[id.Name] < perDevice
		if ok {
			s.asking[id.Name]++
		}
		s.mu.Unlock()
		if !ok {
			busy(w)
			return
		}
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.asking[id.Name]--; s.asking[id.Name] == 0 {
				delete(s.asking, id.Name)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// busy has a peer come back later.
func busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", strconv.Itoa(1+rand.N(3)))
	http.Error(w, "busy", http.StatusServiceUnavailable)
}

func digestOf(r *http.Request) (digest [32]byte, ok bool) {
	text := r.PathValue("sha256")
	if len(text) != hex.EncodedLen(len(digest)) || strings.ToLower(text) != text {
		return digest, false
	}
	_, err := hex.Decode(digest[:], []byte(text))
	return digest, err == nil
}

func (s *Site) giveState(w http.ResponseWriter, r *http.Request) {
	if _, ok := digestOf(r); !ok {
		http.NotFound(w, r)
		return
	}
	o, later := s.find(r.PathValue("sha256"))
	switch {
	case later:
		busy(w)
		return
	case o == nil:
		http.NotFound(w, r)
		return
	}
	after := -1
	if text := r.URL.Query().Get("after"); text != "" {
		n, err := strconv.ParseUint(text, 10, 30)
		if err != nil {
			http.Error(w, "after: not a number of blocks", http.StatusBadRequest)
			return
		}
		after = int(n)
	}
	timer := time.NewTimer(wait(r.Header.Get("Prefer")))
	defer timer.Stop()
	for {
		s.mu.Lock()
		now, changed := o.state(), o.changed
		s.mu.Unlock()
		over := now.Have > after || !now.Making
		if !over {
			select {
			case <-r.Context().Done():
				return
			case <-timer.C:
				over = true
			case <-changed:
			}
		}
		if over {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(now) // who is gone asks again
			return
		}
	}
}

// wait is the time in a Prefer header (RFC 7240, 4.3), at most maxWait; 0 where there is
// none.
func wait(prefer string) time.Duration {
	text, ok := strings.CutPrefix(prefer, "wait=")
	n, err := strconv.ParseUint(text, 10, 16)
	if !ok || err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxWait)
}

func (s *Site) giveBlock(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	list, said := s.holding(digest)
	if len(list) == 0 {
		missing(w, r, said)
		return
	}
	leave := s.enter(w, r)
	if leave == nil {
		return
	}
	defer leave()
	for _, h := range list {
		data, err := s.read(h.offer, h.block)
		if err == nil {
			s.give(w, r, data)
			return
		}
		if !errors.Is(err, block.ErrWrong) && !errors.Is(err, os.ErrNotExist) {
			s.opt.Log.Warn("a block cannot be read", "artifact", h.artifact, "err", err)
			busy(w)
			return
		}
		s.withdraw(h, err)
	}
	missing(w, r, true)
}

// enter waits for the turn to give something, until leave is called; nil: there is none, and
// that was answered.
func (s *Site) enter(w http.ResponseWriter, r *http.Request) (leave func()) {
	timer := time.NewTimer(queueTime)
	defer timer.Stop()
	select {
	case s.uploads <- struct{}{}:
		return func() { <-s.uploads }
	case <-r.Context().Done():
	case <-timer.C:
		busy(w)
	}
	return nil
}

// missing says that a block is not there, and if it was said to be, that this is taken
// back.
func missing(w http.ResponseWriter, r *http.Request, said bool) {
	if said {
		http.Error(w, "it is not there any more", http.StatusGone)
		return
	}
	http.NotFound(w, r)
}

// give writes a block or a document, as fast as the cap allows, and to nobody who takes it slower than
// the slowest cap would be.
func (s *Site) give(w http.ResponseWriter, r *http.Request, data []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	longest := time.Duration(len(data)) * time.Second / slowest
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(connectTime + longest)); err != nil {
		return
	}
	for part := range slices.Chunk(data, chunk) {
		if s.limiter.WaitN(r.Context(), len(part)) != nil {
			return
		}
		n, err := w.Write(part)
		s.mu.Lock()
		s.given += int64(n)
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // for what the connection is used for next
}

// Given is how many bytes of blocks and documents were given to others.
func (s *Site) Given() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given
}

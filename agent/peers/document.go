package peers

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"groundswell/internal/block"
)

// maxDocument is the longest document in bytes that is taken from peers.
const maxDocument = 8 << 20

// giveDocument gives what is needed to begin with an artifact, by its digest: its block
// index, or a list of releases.
func (s *Site) giveDocument(w http.ResponseWriter, r *http.Request) {
	digest, ok := digestOf(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	document := s.document(digest)
	if document == nil {
		http.NotFound(w, r) // at once: who asks for what is not here costs nobody a turn
		return
	}
	leave := s.enter(w, r)
	if leave == nil {
		return
	}
	defer leave()
	s.give(w, r, document())
}

// document is what makes the document with that digest; nil: it is not here.
func (s *Site) document(digest [32]byte) func() []byte {
	s.mu.Lock()
	for _, o := range s.offers {
		if o.index.Blocks != nil && o.digest == digest {
			x := o.index
			s.mu.Unlock()
			return x.Bytes
		}
	}
	s.mu.Unlock()
	if s.opt.Document == nil {
		return nil
	}
	raw := s.opt.Document(hex.EncodeToString(digest[:]))
	if raw == nil {
		return nil
	}
	return func() []byte { return raw }
}

// Near reports whether somebody may have something of an artifact: it is announced, or
// there are peers who announce nothing. A nil Site has no peers.
func (s *Site) Near(artifact string) bool {
	if s == nil || s.Out() != "" || len(artifact) < shortDigest {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.expire(now)
	for _, n := range s.near {
		if s.usable(n, now) && (n.static || slices.Contains(n.artifacts, artifact[:shortDigest])) {
			return true
		}
	}
	return false
}

// Document brings a document about an artifact, by its digest (lower-case hex) and its
// length in bytes, from a peer who has something of the artifact; ErrNobody when none gives
// it. Who gives something else is dropped. It takes as long as peers may take for a document
// of that length, all of them together.
func (s *Site) Document(ctx context.Context, artifact, digest string, length int64) ([]byte, error) {
	want := block.Block{Length: int(length)}
	raw, err := hex.DecodeString(digest)
	if copy(want.SHA256[:], raw); err != nil || len(raw) != len(want.SHA256) || length < 1 || length > maxDocument {
		return nil, fmt.Errorf("%w: a document of %d bytes", ErrNobody, length)
	}
	if !s.Near(artifact) {
		return nil, ErrNobody
	}
	within, cancel := context.WithTimeout(ctx, s.opt.Patience+time.Duration(length)*time.Second/slowest)
	answers := s.having(within, artifact)
	defer func() {
		cancel()
		for range answers { // until nobody is asked any more
		}
	}()
	raw = make([]byte, length)
	for n := range answers {
		_, err := s.fetch(within, n, "/documents/"+digest, want, raw)
		if err == nil {
			s.praise(n, true)
			return raw, nil
		}
		if within.Err() != nil && !errors.Is(err, block.ErrWrong) {
			break
		}
		s.fault(n, err) // an older one does not know what is asked for
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, ErrNobody
}

// having are the neighbours who say that they have something of an artifact, or make it, as
// they answer. What one runs it looks at first when it is asked, and is given time for it.
// The channel is closed when all have answered, or ctx ends.
func (s *Site) having(ctx context.Context, artifact string) <-chan *neighbour {
	known, strange := s.choose(artifact[:shortDigest], func(*neighbour) bool { return false })
	all := slices.Concat(known, strange)
	answers := make(chan *neighbour, len(all)) // so that nobody waits who is not wanted any more
	var asking sync.WaitGroup
	for _, n := range all {
		asking.Go(func() {
			v, err := s.ask(ctx, n, artifact, 0, min(s.opt.Patience, maxWait)/2)
			switch {
			case err == nil && v != (state{}):
				answers <- n
			case err != nil && ctx.Err() == nil:
				s.fault(n, err)
			}
		})
	}
	go func() { asking.Wait(); close(answers) }()
	return answers
}

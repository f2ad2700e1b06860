package trust

import (
	"crypto/sha256"
	"sync"
)

// parsed remembers what parseRoot returned, because every message is verified by a root
// that seldom changes, and reading one costs more than verifying the message. Roots are
// never changed once they are parsed.
var parsed = parsedRoots{known: map[rootKey]root{}}

// maxParsed bounds how many are remembered: two for each trust domain in use.
const maxParsed = 8

type rootKey struct {
	trustDomain string
	repo        Repository
	digest      [sha256.Size]byte // of the bytes
}

type parsedRoots struct {
	mu    sync.Mutex // guards known
	known map[rootKey]root
}

// root is parseRoot. What is not in order is looked at anew each time.
func (p *parsedRoots) root(trustDomain string, repo Repository, raw []byte) (root, error) {
	key := rootKey{trustDomain, repo, sha256.Sum256(raw)}
	p.mu.Lock()
	r, ok := p.known[key]
	p.mu.Unlock()
	if ok {
		return r, nil
	}
	r, err := parseRoot(trustDomain, repo, raw)
	if err != nil {
		return root{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxParsed {
		clear(p.known)
	}
	p.known[key] = r
	return r, nil
}

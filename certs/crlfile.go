package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// crlInterval is how often the file is looked at: well within the 5 s by which
// a revocation must have taken effect everywhere.
const crlInterval = time.Second

// CRLFile is a revocation list that follows a file. A new list must be signed
// by the authority and must not be older than the one in use; otherwise the
// one in use stays, and Err says why. It is safe for concurrent use.
type CRLFile struct {
	path      string
	authority *Authority
	log       *slog.Logger
	onChange  func()
	mu        sync.Mutex // held while a list is replaced
	current   atomic.Pointer[loadedCRL]
	failure   atomic.Pointer[error]
}

type loadedCRL struct {
	*CRL
	data    []byte
	offered bool // it did not come from the file, which may hold an older one
}

// OpenCRLFile reads the list. A file that cannot be read or is refused is an
// error: nothing is accepted before the first good list. onChange, if not nil,
// is called by Run after every new list, so that live connections can be
// checked again; it must not block.
func OpenCRLFile(path string, authority *Authority, log *slog.Logger, onChange func()) (*CRLFile, error) {
	f := &CRLFile{path: path, authority: authority, log: log, onChange: onChange}
	if _, err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Check is ErrRevoked when the current list names the certificate.
func (f *CRLFile) Check(cert *x509.Certificate) error { return f.current.Load().Check(cert) }

// Current is the list in use.
func (f *CRLFile) Current() *CRL { return f.current.Load().CRL }

// Err is why the file as it is now was refused, nil when it is in use.
func (f *CRLFile) Err() error {
	if err := f.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Reload looks at the file now and reports whether a new list is in use.
func (f *CRLFile) Reload() (changed bool, err error) {
	changed, err = f.reload()
	if err != nil {
		f.failure.Store(&err)
		return false, err
	}
	f.failure.Store(nil)
	return changed, nil
}

func (f *CRLFile) reload() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The whole file is read each time: a time stamp has too coarse a grain
	// to tell two quick writes apart.
	data, err := readFile(f.path)
	if err != nil {
		return false, fmt.Errorf("read revocation list: %w", err)
	}
	old := f.current.Load()
	if old != nil && bytes.Equal(old.data, data) {
		return false, nil
	}
	crl, err := ParseCRL(data, f.authority)
	if err != nil {
		return false, fmt.Errorf("%s: %w", f.path, err)
	}
	if old != nil && old.issuer == crl.issuer && crl.number.Cmp(old.number) < 0 {
		if old.offered {
			return false, nil
		}
		return false, fmt.Errorf("%w: number %s after %s", ErrCRLRollback, crl.number, old.number)
	}
	f.current.Store(&loadedCRL{CRL: crl, data: data})
	return true, nil
}

// Offer takes a list that came from elsewhere into use, and into the file, if it
// is signed by the issuer of the one in use and is newer. older reports that it
// is the other way round.
func (f *CRLFile) Offer(data []byte) (older bool, err error) {
	crl, err := ParseCRL(data, f.authority)
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.current.Load()
	if order := crl.number.Cmp(old.number); crl.issuer != old.issuer || order <= 0 {
		return crl.issuer == old.issuer && order < 0, nil
	}
	f.current.Store(&loadedCRL{CRL: crl, data: data, offered: true})
	f.log.Info("revocation list of another node loaded", "number", crl.number.String(), "entries", len(crl.entries))
	if f.onChange != nil {
		f.onChange()
	}
	if err := WritePublicFile(f.path, data); err != nil {
		f.log.Warn("a revocation list of another node is in use, but not in the file", "err", err)
	}
	return false, nil
}

// Bytes is the list in use, as it was signed.
func (f *CRLFile) Bytes() []byte { return f.current.Load().data }

// Run follows the file until ctx ends.
func (f *CRLFile) Run(ctx context.Context) error {
	tick := time.NewTicker(crlInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		failedBefore := f.Err() != nil
		changed, err := f.Reload()
		if err != nil && !failedBefore {
			f.log.Error("revocation list refused, the last good one stays in use", "err", err)
		}
		if changed {
			f.log.Info("revocation list loaded", "number", f.Current().number.String(), "entries", len(f.Current().entries))
			if f.onChange != nil {
				f.onChange()
			}
		}
	}
}

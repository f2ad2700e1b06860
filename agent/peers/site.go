package peers

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"groundswell/topics"
)

// Options are what a Site needs besides its configuration.
type Options struct {
	Config
	// Device and TrustDomain are the device's own, by its certificate.
	Device, TrustDomain string
	// TLS is for both directions: certs.DeviceTLS.
	TLS *tls.Config
	// Mains reports whether the device runs on mains power, or is plugged in. Nil: it
	// does.
	Mains func() bool
	// Contents opens what the device runs or has staged, if that is the artifact; it may
	// have been changed since. Nil: nothing is given of that.
	Contents func(artifact string) (Contents, bool)
	// Holds lists the SHA-256 of what Contents would open.
	Holds func() []string
	// Document is a document about releases by its SHA-256 (lower-case hex), as it was
	// verified; nil: it is not here. It is asked whatever others want to know, so it must be
	// quick. A nil Document: only block indexes are given.
	Document func(sha256 string) []byte
	// Settle is how long a download waits for others to answer before it fetches its
	// first block. Default 2 s; 0 where all peers are Static.
	Settle time.Duration
	// Grace is how long somebody whose turn it is may take to say that it fetches.
	// Default 5 s.
	Grace time.Duration
	// Patience is the longest wait for the next block of one that says that it fetches
	// it, and a tenth of the longest wait for one peer, and for all, for a whole artifact,
	// beyond what their blocks are worth. Default 30 s.
	Patience time.Duration
	Log      *slog.Logger
}

// Contents is an artifact on this device.
type Contents struct {
	Length int64 // bytes
	Open   func() (ReadAtCloser, error)
}

// ReadAtCloser is what Contents are read by.
type ReadAtCloser interface {
	io.ReaderAt
	io.Closer
}

// Site is this device among those of its site. It is safe for concurrent use. A nil Site
// has no peers.
type Site struct {
	opt     Options
	name    string
	http    *http.Client
	uploads chan struct{} // held while a block is given
	limiter *rate.Limiter
	changed chan struct{} // gets a value when something is to be announced
	cuts    chan *offer   // what runs, whose blocks are to be found out

	// One lock, for none is held while anything is waited for.
	mu       sync.Mutex // guards what follows
	listener net.Listener
	out      string                // why the device takes no part; "": it does
	offers   []*offer              // the oldest first
	near     map[string]*neighbour // by address:port
	devices  map[string]*conduct   // by the certificate
	places   map[string]*conduct   // where nobody was, by address:port
	asking   map[string]int        // requests that are being answered, by device
	given    int64                 // bytes
	faults   topics.PeerFaults     // since Faults was called last
}

// New does no I/O.
func New(o Options) *Site {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	if len(o.Interfaces) > 0 {
		or(&o.Settle, 2*time.Second)
	}
	or(&o.Grace, 5*time.Second)
	or(&o.Patience, 30*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Site{
		opt: o, name: Name(o.TrustDomain, o.Device),
		uploads: make(chan struct{}, o.MaxUploads), limiter: rate.NewLimiter(rate.Limit(o.UploadRate), chunk),
		changed: make(chan struct{}, 1), cuts: make(chan *offer, maxOffers),
		out: "it is not known yet what the device runs on", asking: map[string]int{},
		near: map[string]*neighbour{}, devices: map[string]*conduct{}, places: map[string]*conduct{},
	}
	s.http = &http.Client{
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: connectTime}).DialContext, TLSClientConfig: o.TLS, TLSHandshakeTimeout: connectTime,
			IdleConnTimeout: time.Minute, MaxIdleConns: maxNear, MaxIdleConnsPerHost: 2, MaxConnsPerHost: 4,
			MaxResponseHeaderBytes: 8 << 10, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, addr := range o.Static {
		s.near[addr] = &neighbour{conduct: &conduct{}, addr: addr, static: true}
	}
	return s
}

// Name is what a device is called among its peers. It is made from its certificate's
// identity, so that nobody can choose one.
func Name(trustDomain, device string) string {
	sum := sha256.Sum256([]byte("groundswell/peer/" + trustDomain + "/" + device))
	return hex.EncodeToString(sum[:8])
}

// Listen binds the address.
func (s *Site) Listen() error {
	l, err := net.Listen("tcp", s.opt.Listen)
	if err != nil {
		return fmt.Errorf("peers.listen: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = l
	return nil
}

// Addr is the bound host:port; "" before that.
func (s *Site) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Run serves, and looks for peers, until ctx ends. It binds the address if that was not
// done, and tries again where it cannot: it may be an interface's that is not up yet.
func (s *Site) Run(ctx context.Context) error {
	defer s.http.CloseIdleConnections()
	for said := false; s.Addr() == ""; said = true {
		err := s.Listen()
		if err == nil {
			break
		}
		if !said {
			s.opt.Log.Error("no part can be taken among the site's devices yet", "err", err)
		}
		if pause(ctx, again) != nil {
			return nil
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serve(ctx) })
	g.Go(func() error { s.takePart(ctx); return nil })
	g.Go(func() error { s.cut(ctx); return nil })
	g.Go(func() error { return s.discover(ctx) })
	err := g.Wait()
	s.setOut("the device does not serve")
	return err
}

// announce has the others told what the device has.
func (s *Site) announce() {
	select {
	case s.changed <- struct{}{}:
	default: // one reminder is enough
	}
}

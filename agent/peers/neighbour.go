package peers

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"time"

	"groundswell/certs"
	"groundswell/internal/block"
)

// neighbour is a place where another device of the site is, or was announced. Site.mu
// guards it.
type neighbour struct {
	*conduct
	addr   string // address:port
	static bool   // it is listed
	name   string // as announced, or by its certificate; "": not known yet
	device string // by its certificate; "": not known yet
	proven bool   // it has sent a right block, and not failed since
	// artifacts are the digests that it announces, short; of a static one they are not
	// known.
	artifacts []string
	announced time.Time // the last time
	expires   time.Time // it is forgotten then, unless it is static
	queued    time.Time // since then it waits to be asked who it is
}

// The refusals of this package.
var (
	// ErrNobody: no peer has it.
	ErrNobody = errors.New("no peer has it")
	// errAway: no device of the fleet is there.
	errAway = errors.New("no device answers")
	// errDropped: the device has sent a wrong block before.
	errDropped = errors.New("peer has sent wrong blocks")
	// errSelf: it is this device.
	errSelf = errors.New("peer is this device itself")
	// errUnknown: it does not have what it was asked for.
	errUnknown = errors.New("peer does not have it")
	// errWithdrawn: it had said that it has it, and takes that back.
	errWithdrawn = errors.New("peer does not have it any more")
	// errState: its answer is none.
	errState = errors.New("bad answer of a peer")
)

// busyError is an answer that it has no time now.
type busyError struct{ after time.Duration }

func (b busyError) Error() string { return fmt.Sprintf("peer is busy for %v", b.after) }

// maxBusy is how long a peer may ask to be left alone.
const maxBusy = 10 * time.Second

// get asks a neighbour. Whoever it is connected to is known by the certificate, before any
// answer.
func (s *Site) get(ctx context.Context, n *neighbour, path string, header http.Header) (*http.Response, error) {
	var met bool
	var who error
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { met, who = false, nil }, // before each attempt
		GotConn: func(c httptrace.GotConnInfo) { met, who = true, s.recognise(n, c.Conn) },
	}), http.MethodGet, (&url.URL{Scheme: "https", Host: n.addr}).String()+path, nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	req.Header.Set("User-Agent", "groundswell-agent")
	resp, err := s.http.Do(req)
	switch {
	case err != nil && !met:
		return nil, fmt.Errorf("%w: %w", errAway, err)
	case err != nil:
		return nil, err
	case who != nil:
		resp.Body.Close()
		return nil, who
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp, nil
	case http.StatusNotFound:
		err = errUnknown
	case http.StatusGone:
		err = errWithdrawn
	case http.StatusServiceUnavailable:
		seconds, errAfter := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 32)
		if errAfter != nil {
			seconds = 1
		}
		err = busyError{min(time.Duration(seconds)*time.Second, maxBusy)}
	default:
		err = fmt.Errorf("%w: status %d", errState, resp.StatusCode)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 512) // for the connection to be used again
	resp.Body.Close()
	return nil, err
}

// recognise notes who a connection leads to, and is an error if it is nobody to ask.
func (s *Site) recognise(n *neighbour, c net.Conn) error {
	secure, ok := c.(*tls.Conn)
	if !ok {
		return errAway
	}
	id, err := certs.PeerIdentity(secure.ConnectionState()) // the handshake has verified it
	if err != nil {
		return err
	}
	name := Name(id.TrustDomain, id.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recognised(n, id.Name, name)
	switch {
	case n.dropped:
		return errDropped
	case name == s.name:
		return errSelf
	}
	return nil
}

// ask asks how much of an artifact a neighbour has: at once, or when there are more
// blocks than after, at most wait later.
func (s *Site) ask(ctx context.Context, n *neighbour, artifact string, after int, wait time.Duration) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+connectTime)
	defer cancel()
	path, header := "/artifacts/"+artifact, http.Header{}
	if seconds := int((wait + time.Second - 1) / time.Second); seconds > 0 {
		path += "?after=" + strconv.Itoa(after)
		header.Set("Prefer", "wait="+strconv.Itoa(seconds))
	}
	resp, err := s.get(ctx, n, path, header)
	if errors.Is(err, errWithdrawn) {
		err = errUnknown // that is said by a state
	}
	if err != nil {
		return state{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxState+1))
	if err != nil {
		return state{}, err
	}
	return decodeState(raw)
}

// maxState is the largest state in bytes.
const maxState = 1 << 10

func decodeState(raw []byte) (state, error) {
	var v state
	if len(raw) > maxState {
		return v, fmt.Errorf("%w: more than %d bytes", errState, maxState)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("%w: %w", errState, err)
	}
	if v.Have < 0 || v.Fetching < 0 {
		return v, fmt.Errorf("%w: below 0", errState)
	}
	return v, nil
}

// block fetches a block from a neighbour into buffer, and checks it: block.ErrWrong when
// it is another one. received is how many bytes came.
func (s *Site) block(ctx context.Context, n *neighbour, b block.Block, buffer []byte) (received int64, err error) {
	return s.fetch(ctx, n, "/blocks/"+b.Name(), b, buffer)
}

// fetch is block, for what is at a path.
func (s *Site) fetch(ctx context.Context, n *neighbour, path string, b block.Block, buffer []byte) (received int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.opt.Grace+queueTime+time.Duration(b.Length)*time.Second/slowest)
	defer cancel()
	resp, err := s.get(ctx, n, path, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.ContentLength != int64(b.Length) {
		return 0, fmt.Errorf("%w: of %d bytes, instead of %d", block.ErrWrong, resp.ContentLength, b.Length)
	}
	k, err := io.ReadFull(resp.Body, buffer)
	if err != nil {
		return int64(k), err
	}
	return int64(k), b.Check(buffer)
}

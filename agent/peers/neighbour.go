package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"groundswell/certs"
	"groundswell/internal/block"
)

// maxNear is how many neighbours are known at once.
const maxNear = 64

// neighbour is another device of the site. Site.mu guards it.
type neighbour struct {
	addr   string   // address:port that is used
	addrs  []string // that were announced, the newest first
	static bool     // it is listed
	name   string   // as announced, or by its certificate; "": not known yet
	device string   // by its certificate; "": not known yet
	// artifacts are the digests that it announces, short; of a static one they are not
	// known.
	artifacts []string

	until   time.Time // it is passed over until then
	strikes int
	good    int       // blocks since the last strike was forgiven
	busy    time.Time // it wants to be left alone until then
	refused int       // how often it was busy since it sent a block
	idle    time.Time // it is given no turn until then
}

// The refusals of this package.
var (
	// ErrNobody: no peer has it.
	ErrNobody = errors.New("no peer has it")
	// errDropped: the device has sent a wrong block before.
	errDropped = errors.New("peer has sent wrong blocks")
	// errName: it is not who it was announced as, or this device itself.
	errName = errors.New("peer is somebody else")
	// errUnknown: it does not have what it was asked for.
	errUnknown = errors.New("peer does not have it")
	// errState: its answer is none.
	errState = errors.New("bad answer of a peer")
)

// busyError is an answer that it has no time now.
type busyError struct{ after time.Duration }

func (b busyError) Error() string { return fmt.Sprintf("peer is busy for %v", b.after) }

// maxBusy is how long a peer may ask to be left alone.
const maxBusy = 10 * time.Second

// get asks a neighbour. Whoever answers is known by its certificate.
func (s *Site) get(ctx context.Context, n *neighbour, path string, header http.Header) (*http.Response, error) {
	s.mu.Lock()
	u := url.URL{Scheme: "https", Host: n.addr}
	s.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String()+path, nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	req.Header.Set("User-Agent", "groundswell-agent")
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	if err := s.recognise(n, resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp, nil
	case http.StatusNotFound:
		err = errUnknown
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

// recognise notes who has answered, and is an error if it is nobody to ask.
func (s *Site) recognise(n *neighbour, resp *http.Response) error {
	if resp.TLS == nil {
		return errName
	}
	id, err := certs.PeerIdentity(*resp.TLS)
	if err != nil {
		return err
	}
	name := Name(id.TrustDomain, id.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.static {
		n.name = name // it may be another one than before
	}
	switch {
	case s.dropped[id.Name]:
		return errDropped
	case name == s.name:
		return fmt.Errorf("%w: it is this device", errName)
	case n.name != name:
		return fmt.Errorf("%w: it is %s, announced as %s", errName, id, n.name)
	}
	n.device = id.Name
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
	ctx, cancel := context.WithTimeout(ctx, s.opt.Grace+queueTime+time.Duration(b.Length)*time.Second/(minRate/4))
	defer cancel()
	resp, err := s.get(ctx, n, "/blocks/"+b.Name(), nil)
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

// usable reports whether a neighbour may be asked now. The caller holds mu.
func (s *Site) usable(n *neighbour, now time.Time) bool {
	return !now.Before(n.until) && !(n.device != "" && s.dropped[n.device]) && n.name != s.name
}

// passTime is how long a neighbour is passed over that did not deliver, doubled with each
// time up to maxPass.
const (
	passTime = 30 * time.Second
	maxPass  = time.Hour
	// maxRefused is how often a peer may be busy before that counts.
	maxRefused = 3
	// forgiven is how many right blocks make good for one time.
	forgiven = 32
)

// fault judges what came of asking a neighbour.
func (s *Site) fault(n *neighbour, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var later busyError
	switch {
	case errors.Is(err, block.ErrWrong):
		// The transport keeps blocks from being changed on their way.
		if len(s.dropped) < maxDropped {
			s.dropped[n.device] = true
		}
		n.until = time.Now().Add(maxPass)
		s.opt.Log.Warn("a peer sends wrong blocks, it is not asked again", "peer", n.device, "addr", n.addr, "err", err)
	case errors.As(err, &later) && n.refused < maxRefused:
		n.busy = time.Now().Add(later.after)
		n.refused++
	case errors.Is(err, errUnknown):
	default:
		n.refused = 0
		n.strikes++
		pass := min(passTime<<min(n.strikes-1, 10), maxPass)
		n.until = time.Now().Add(pass)
		if i := slices.Index(n.addrs, n.addr); i >= 0 {
			n.addr = n.addrs[(i+1)%len(n.addrs)] // it may be at another one now
		}
		s.opt.Log.Info("a peer is passed over", "peer", n.device, "addr", n.addr, "for", pass, "err", err)
	}
}

// maxDropped bounds what is remembered; more certificates than that are not stolen on one
// site without somebody noticing.
const maxDropped = 1024

// praise notes that a neighbour has sent a right block.
func (s *Site) praise(n *neighbour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.refused = 0
	if n.good++; n.good >= forgiven && n.strikes > 0 {
		n.good, n.strikes = 0, n.strikes-1
	}
}

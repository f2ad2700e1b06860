package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	sessionStream = "sessions"
	sessionPrefix = "session."
	// claimSlack is how much longer than its session a claim is kept.
	claimSlack = time.Minute
	// takeoverWait bounds how long a node waits for another to let go of a
	// client. One that does not answer finds out by itself (WatchClaims).
	takeoverWait = 2 * time.Second
)

// ErrTaken means that another connection has claimed the client id meanwhile.
var ErrTaken = errors.New("claimed by another connection")

// Claim says which connection a client id belongs to, in the whole cluster, and
// what its session holds. The newest claim wins; it is only ever replaced by
// somebody who has seen it.
type Claim struct {
	Node string `json:"node"`
	// Connection numbers the claims of one client: a later one has a higher
	// number, whichever node it is on.
	Connection int64 `json:"connection"`
	Connected  bool  `json:"connected"`
	// Outlives: the session goes on when the connection ends without a word.
	Outlives bool `json:"outlives,omitempty"`
	// Expires is when the session ends; zero while connected.
	Expires time.Time `json:"expires,omitzero"`
	// Flaps counts how often a live connection was replaced, and forgets some with
	// time; FlapsAt is when it was counted.
	Flaps   float64   `json:"flaps,omitempty"`
	FlapsAt time.Time `json:"flaps_at,omitzero"`
	// Testament is what is to be done if the node dies, as the edge encodes it.
	// Absent: nothing.
	Testament json.RawMessage `json:"testament,omitempty"`
	// State is the session's, as the edge encodes it. Absent: nothing.
	State json.RawMessage `json:"state,omitempty"`

	// Revision is what Write compares with; 0: there was no claim.
	Revision uint64 `json:"-"`
}

// Clustered reports whether there are other nodes, and with them claims.
func (c *Cluster) Clustered() bool { return c.cfg.Peering != nil }

func (c *Cluster) openSessions(ctx context.Context) (err error) {
	// Without direct gets: only the leader knows for sure whose claim is newest.
	c.sessions, err = c.stream(ctx, jetstream.StreamConfig{
		Name: sessionStream, Subjects: []string{sessionPrefix + ">"}, Retention: jetstream.LimitsPolicy,
		MaxMsgsPerSubject: 1, MaxBytes: c.cfg.MaxRetainedBytes, AllowMsgTTL: true,
	})
	if err != nil {
		return err
	}
	c.claimed, err = c.lastSequence(ctx, c.sessions)
	return err
}

// Lookup returns the claim of a client, or ErrNotFound.
func (c *Cluster) Lookup(ctx context.Context, client string) (Claim, error) {
	raw, err := c.sessions.GetLastMsgForSubject(ctx, sessionPrefix+token(client))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Claim{}, fmt.Errorf("claim of %s: %w", client, ErrNotFound)
	}
	if err != nil {
		return Claim{}, fmt.Errorf("claim of %s: %w: %w", client, ErrUnavailable, err)
	}
	return decodeClaim(raw.Data, raw.Sequence)
}

// claimMessage reads a message of the stream. client is nil for the marker of a
// claim that has run out.
func claimMessage(subject string, data []byte, sequence uint64) (client *string, claim Claim, err error) {
	if len(data) == 0 {
		return nil, Claim{}, nil
	}
	id, err := untoken(strings.TrimPrefix(subject, sessionPrefix))
	if err != nil {
		return nil, Claim{}, err
	}
	claim, err = decodeClaim(data, sequence)
	return &id, claim, err
}

func decodeClaim(data []byte, revision uint64) (Claim, error) {
	var claim Claim
	if err := json.Unmarshal(data, &claim); err != nil {
		return Claim{}, fmt.Errorf("claim: %w", err)
	}
	claim.Revision = revision
	return claim, nil
}

// Write replaces the claim that the caller has seen, claim.Revision, and returns
// the new revision. ErrTaken: somebody else was faster.
func (c *Cluster) Write(ctx context.Context, client string, claim Claim) (revision uint64, err error) {
	data, err := json.Marshal(claim)
	if err != nil {
		return 0, fmt.Errorf("claim of %s: %w", client, err)
	}
	msg := &nats.Msg{Subject: sessionPrefix + token(client), Data: data, Header: nats.Header{}}
	if !claim.Connected {
		ttl := max(time.Until(claim.Expires), 0) + claimSlack
		msg.Header.Set(jetstream.MsgTTLHeader, ttl.Round(time.Second).String())
	}
	ack, err := c.admin.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(claim.Revision))
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == 10164) {
		return 0, fmt.Errorf("claim of %s: %w", client, ErrTaken)
	}
	if err != nil {
		return 0, fmt.Errorf("claim of %s: %w", client, storeError(err))
	}
	if err := c.awaitCommit(); err != nil {
		return 0, fmt.Errorf("claim of %s: %w", client, err)
	}
	return ack.Sequence, nil
}

// WatchClaims hands every claim that was written since Open to handle, in the
// order of the writes, until ctx ends. Of a client with several in a moment it
// may see the newest only.
func (c *Cluster) WatchClaims(ctx context.Context, handle func(client string, claim Claim)) error {
	if !c.Clustered() {
		return nil
	}
	next := c.claimed + 1
	for ctx.Err() == nil {
		err := c.follow(ctx, c.sessions, &next, func(msg jetstream.Msg, sequence uint64) {
			client, claim, err := claimMessage(msg.Subject(), msg.Data(), sequence)
			if err != nil {
				c.log.Error("a claim cannot be read and is passed over", "subject", msg.Subject(), "err", err)
			} else if client != nil {
				handle(*client, claim)
			}
		})
		if ctx.Err() == nil {
			c.log.Error("watching the claims of other nodes was interrupted and begins again", "err", err)
			pause(ctx, time.Second)
		}
	}
	return nil
}

// TakeOver asks a node to let go of a client whose claim, of the connection
// replaced, was replaced by that of connection, and waits until it has. state is what the node hands over, nil
// if nothing. gone reports that the node is not there at all; one that is slow finds
// out by WatchClaims.
func (c *Cluster) TakeOver(ctx context.Context, node, client string, connection, replaced int64) (state []byte, gone bool) {
	ctx, cancel := context.WithTimeout(ctx, takeoverWait)
	defer cancel()
	msg := &nats.Msg{Subject: "takeover." + node, Data: []byte(client), Header: nats.Header{}}
	msg.Header.Set(headerConnection, strconv.FormatInt(connection, 10))
	msg.Header.Set(headerReplaced, strconv.FormatInt(replaced, 10))
	answer, err := c.retaining.RequestMsgWithContext(ctx, msg)
	if err != nil {
		c.log.Debug("no answer about a take-over", "from", node, "client", client, "err", err)
		return nil, errors.Is(err, nats.ErrNoResponders)
	}
	return answer.Data, false
}

// OnTakeOver has other nodes' requests answered: letGo returns when this node
// has let go of the client, and what it hands over. It may be called at once for
// different clients.
func (c *Cluster) OnTakeOver(letGo func(client string, connection, replaced int64) (state []byte)) error {
	if !c.Clustered() {
		return nil
	}
	_, err := c.retaining.Subscribe("takeover."+c.cfg.Node, func(m *nats.Msg) {
		connection, err := strconv.ParseInt(m.Header.Get(headerConnection), 10, 64)
		if err != nil {
			return // not of our making
		}
		replaced, _ := strconv.ParseInt(m.Header.Get(headerReplaced), 10, 64) // 0, of an older node: it takes no answer
		go func() {
			_ = m.Respond(letGo(string(m.Data), connection, replaced)) // the asker does not wait for ever
		}()
	})
	if err != nil {
		return fmt.Errorf("takeover requests: %w", err)
	}
	return nil
}

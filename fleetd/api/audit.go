package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"groundswell/certs/token"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
)

// AuditEntry is one row of the audit trail.
type AuditEntry struct {
	ID        int64           `json:"id"`
	At        time.Time       `json:"at"`
	Actor     string          `json:"actor" doc:"Subject of the token, or the part of fleetd that acted by itself"`
	Action    string          `json:"action"`
	Object    string          `json:"object"`
	Before    int64           `json:"before,omitempty" doc:"Revision before; absent: it did not exist"`
	After     int64           `json:"after,omitempty" doc:"Revision after; absent: it is gone"`
	RequestID string          `json:"request_id,omitempty"`
	Detail    json.RawMessage `json:"detail,omitempty"`
}

func viewAudit(e fleet.AuditEntry) AuditEntry {
	return AuditEntry{
		ID: e.ID, At: e.At.UTC(), Actor: e.Actor, Action: e.Action, Object: e.Object,
		Before: e.Before, After: e.After, RequestID: e.RequestID, Detail: rawDetail(e.Detail),
	}
}

func rawDetail(detail string) json.RawMessage {
	if detail == "" || detail == "{}" || detail == "null" {
		return nil
	}
	return json.RawMessage(detail)
}

// DeadLetter is a message of a device that can never be stored.
type DeadLetter struct {
	ID       int64     `json:"id"`
	At       time.Time `json:"at"`
	Topic    string    `json:"topic"`
	Shard    int64     `json:"shard"`
	Sequence int64     `json:"sequence"`
	Payload  []byte    `json:"payload_b64" doc:"As it came, in base64"`
	Consumer string    `json:"consumer" enum:"registry,telemetry"`
	Reason   string    `json:"reason"`
}

func viewDeadLetter(d store.DeadLetterEntry) DeadLetter {
	return DeadLetter{ID: d.ID, At: d.At.UTC(), Topic: strings.ToValidUTF8(d.Topic, "?"), Shard: d.Shard, Sequence: d.Sequence, Payload: never(d.Payload), Consumer: d.Consumer, Reason: d.Reason}
}

// Who is the caller as fleetd sees it.
type Who struct {
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Issuer  string    `json:"issuer"`
	Expires time.Time `json:"expires"`
}

func (s *Server) registerAudit() {
	register(s, operation{
		id: "list-audit", method: http.MethodGet, path: "/v1/audit", tag: "audit", role: token.Admin, summary: "List who changed what, newest first",
	}, func(ctx context.Context, in *struct {
		PageQuery
		Object string `query:"object" maxLength:"200" pattern:"^[ -~]*$" example:"rollout/r-k3j5mz7qabcd"`
		Actor  string `query:"actor" maxLength:"200" pattern:"^[^\\x00-\\x1f]*$"`
	}) (*listOutput[AuditEntry], error) {
		entries, next, err := s.Store.Audit(ctx, store.AuditFilter{Object: in.Object, Actor: in.Actor}, in.page())
		return list(entries, next, err, viewAudit)
	})

	register(s, operation{
		id: "list-dead-letters", method: http.MethodGet, path: "/v1/dead-letters", tag: "audit", role: token.Viewer, summary: "List messages of devices that can never be stored, newest first",
	}, func(ctx context.Context, in *struct{ PageQuery }) (*listOutput[DeadLetter], error) {
		letters, next, err := s.Store.DeadLetters(ctx, in.page())
		return list(letters, next, err, viewDeadLetter)
	})

	register(s, operation{
		id: "whoami", method: http.MethodGet, path: "/v1/whoami", tag: "audit", role: token.Viewer, summary: "Say who the token speaks for",
	}, func(ctx context.Context, _ *struct{}) (*struct{ Body Who }, error) {
		who := principal(ctx)
		out := &struct{ Body Who }{}
		out.Body = Who{Name: who.Name, Role: string(who.Role), Issuer: who.Issuer, Expires: who.Expires.UTC()}
		return out, nil
	})
}

package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"groundswell/certs/token"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
)

// operation describes one route.
type operation struct {
	id, method, path string
	tag, summary     string
	description      string
	role             token.Role
	status           int           // of success; default 200
	maxBody          int64         // default maxBody
	timeout          time.Duration // default handlingTimeout
	body             *huma.RequestBody
	creates          bool  // a PUT that answers 201 when it made what was not there
	errors           []int // besides 401, 403, 422, 500, 503, and 400, 413, 415 where there is a body
}

// register adds a route: authentication and role first, then huma's checks,
// then the handler, whose errors become problems.
func register[I, O any](s *Server, o operation, handle func(ctx context.Context, in *I) (*O, error)) {
	if o.timeout == 0 {
		o.timeout = handlingTimeout
	}
	op := huma.Operation{
		OperationID: o.id, Method: o.method, Path: o.path, Tags: []string{o.tag},
		Summary: o.summary, Description: strings.TrimSpace(o.description + "\n\nRole: " + string(o.role) + "."),
		Security:        []map[string][]string{{"bearer": {}}},
		DefaultStatus:   o.status,
		MaxBodyBytes:    firstNonZero(o.maxBody, maxBody) + 1, // huma refuses the limit itself
		BodyReadTimeout: o.timeout,
		RequestBody:     o.body,
		Errors:          append(o.errors, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity, http.StatusServiceUnavailable),
	}
	if o.method != http.MethodGet && o.method != http.MethodDelete {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	op.Middlewares = huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
		if name, ok := ctx.Context().Value(keyOperation).(*string); ok {
			*name = o.id
		}
		who, err := s.authenticate(ctx, o.role)
		if err != nil {
			p := s.refused(op, requestID(ctx.Context()), err)
			if p.Status == http.StatusUnauthorized {
				ctx.SetHeader("WWW-Authenticate", `Bearer realm="groundswell"`)
			}
			ctx.SetHeader("Content-Type", "application/problem+json")
			ctx.SetStatus(p.Status)
			_ = json.NewEncoder(ctx.BodyWriter()).Encode(p) // the caller is gone if this fails
			return
		}
		bounded, cancel := context.WithTimeout(context.WithValue(ctx.Context(), keyPrincipal, who), o.timeout)
		defer cancel()
		next(huma.WithContext(ctx, bounded))
	}}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, s.refused(op, requestID(ctx), err)
		}
		return out, nil
	})
	if o.creates {
		made := *s.api.OpenAPI().Paths[o.path].Put.Responses["200"]
		made.Description = http.StatusText(http.StatusCreated)
		s.api.OpenAPI().Paths[o.path].Put.Responses["201"] = &made
	}
}

func firstNonZero(values ...int64) int64 {
	for _, v := range values {
		if v != 0 {
			return v
		}
	}
	return 0
}

// authenticate says who asks, if they may.
func (s *Server) authenticate(ctx huma.Context, need token.Role) (token.Principal, error) {
	scheme, raw, _ := strings.Cut(ctx.Header("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || raw == "" {
		return token.Principal{}, headerProblem(http.StatusUnauthorized, "Authorization", "a bearer token is needed")
	}
	who, err := s.Tokens.Verify(ctx.Context(), strings.TrimSpace(raw))
	if err != nil {
		// What exactly is wrong helps an attacker more than an operator.
		s.log.Info("token refused", "request", requestID(ctx.Context()), "err", err)
		detail := "the token is not valid"
		if errors.Is(err, token.ErrExpired) {
			detail = "the token has expired"
		}
		return token.Principal{}, headerProblem(http.StatusUnauthorized, "Authorization", detail)
	}
	if !who.Role.Includes(need) {
		s.log.Warn("operation refused", "request", requestID(ctx.Context()), "actor", who.Name, "role", who.Role, "operation", ctx.Operation().OperationID)
		return token.Principal{}, problem(http.StatusForbidden, "this needs the role "+string(need)+"; the token gives "+string(who.Role))
	}
	return who, nil
}

// principal is who makes the request.
func principal(ctx context.Context) token.Principal {
	who, _ := ctx.Value(keyPrincipal).(token.Principal) // set for every operation
	return who
}

// actor is who makes the request, for the audit trail.
func actor(ctx context.Context) fleet.Actor {
	return fleet.Actor{Name: principal(ctx).Name, RequestID: requestID(ctx)}
}

// PageQuery is how every list is asked for. (Parts of an input are exported
// because huma looks into no others.)
type PageQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" doc:"How many at most; 100 unless given"`
	Cursor string `query:"cursor" maxLength:"1024" doc:"What the piece before gave as next"`
}

func (p PageQuery) page() store.Page { return store.Page{Limit: p.Limit, Cursor: p.Cursor} }

// List is a piece of a list.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"Cursor of the piece that follows; absent: this was the last"`
}

type listOutput[T any] struct{ Body List[T] }

// list translates what the store gave.
func list[S, T any](items []S, next string, err error, view func(S) T) (*listOutput[T], error) {
	if err != nil {
		return nil, err
	}
	out := &listOutput[T]{Body: List[T]{Items: make([]T, len(items)), Next: next}}
	for i, item := range items {
		out.Body.Items[i] = view(item)
	}
	return out, nil
}

// object is a single resource with its revision.
type object[T any] struct {
	ETag     string `header:"ETag" doc:"The revision, for If-Match"`
	Location string `header:"Location" doc:"Where it is, after a creation"`
	Body     T
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// IfMatch is the header of every change.
type IfMatch struct {
	IfMatch string `header:"If-Match" doc:"The ETag that the caller has seen"`
}

// revision is the revision that the caller has seen. 428 without the header,
// 412 when it cannot be any revision.
func (m IfMatch) revision() (int64, error) {
	if m.IfMatch == "" {
		return 0, headerProblem(http.StatusPreconditionRequired, "If-Match", "a change needs the ETag of what is changed, such as \"7\"")
	}
	text, ok := strings.CutPrefix(m.IfMatch, `"`)
	text, ended := strings.CutSuffix(text, `"`)
	revision, err := strconv.ParseInt(text, 10, 64)
	if !ok || !ended || err != nil || revision < 1 {
		return 0, headerProblem(http.StatusPreconditionFailed, "If-Match", "is not one ETag that this resource gave, such as \"7\"")
	}
	return revision, nil
}

// Creation is the header of every creation.
type Creation struct {
	IdempotencyKey string `header:"Idempotency-Key" minLength:"1" maxLength:"200" pattern:"^[!-~]+$" doc:"The same key with the same request gives the same object"`
}

// actor is who creates, once per key. request is all that makes the request
// what it is.
func (c Creation) actor(ctx context.Context, request ...any) (fleet.Actor, error) {
	by := actor(ctx)
	if c.IdempotencyKey == "" {
		return by, nil
	}
	hash := sha256.New()
	if err := json.NewEncoder(hash).Encode(request); err != nil {
		return by, err
	}
	by.Key, by.Hash = c.IdempotencyKey, hex.EncodeToString(hash.Sum(nil))
	return by, nil
}

// when is a time that may be absent.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func moment(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// never makes an empty list of nil, so that JSON has [] and not null.
func never[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

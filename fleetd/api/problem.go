package api

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"groundswell/certs/trust"
	"groundswell/fleetd/artifact"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
)

// Problem is the body of every refusal (RFC 9457).
type Problem struct {
	Title  string `json:"title" doc:"The kind of problem"`
	Status int    `json:"status" doc:"The HTTP status"`
	Detail string `json:"detail,omitempty" doc:"What went wrong, for people"`
	// Instance is the request id.
	Instance string  `json:"instance,omitempty" doc:"The request's id, as in the log and the audit trail"`
	Errors   []Cause `json:"errors,omitempty" doc:"What exactly was refused"`
}

// Cause is one thing that was refused. At most one of the first three stands.
type Cause struct {
	Pointer   string `json:"pointer,omitempty" doc:"JSON pointer into the body"`
	Parameter string `json:"parameter,omitempty" doc:"Name of a path or query parameter"`
	Header    string `json:"header,omitempty" doc:"Name of a header"`
	Detail    string `json:"detail" doc:"What is wrong with it"`
}

// Error makes Problem an error of the handlers.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is what huma asks for.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is what huma asks for.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// retryAfter is how many seconds a caller is asked to wait when the database
// cannot be reached.
const retryAfter = "5"

// GetHeaders is what huma asks for.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	return h
}

func problem(status int, detail string, causes ...Cause) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: detail, Errors: causes}
}

// fieldProblem refuses a field of the body.
func fieldProblem(pointer, detail string) *Problem {
	return problem(http.StatusUnprocessableEntity, pointer+": "+detail, Cause{Pointer: pointer, Detail: detail})
}

// parameterProblem refuses a query or path parameter.
func parameterProblem(name, detail string) *Problem {
	return problem(http.StatusUnprocessableEntity, name+": "+detail, Cause{Parameter: name, Detail: detail})
}

// headerProblem refuses or misses a header.
func headerProblem(status int, name, detail string) *Problem {
	return problem(status, name+": "+detail, Cause{Header: name, Detail: detail})
}

// sentinels maps refusals to statuses. The first that fits counts.
var sentinels = []struct {
	err    error
	status int
}{
	{fleet.ErrNotFound, http.StatusNotFound},
	{artifact.ErrNoArtifact, http.StatusNotFound},
	{artifact.ErrNoFile, http.StatusNotFound},
	{fleet.ErrStale, http.StatusPreconditionFailed},
	{fleet.ErrConflict, http.StatusConflict},
	{fleet.ErrTransition, http.StatusConflict},
	{artifact.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{artifact.ErrName, http.StatusUnprocessableEntity},
	// A list or root that would take back what was published.
	{trust.ErrVersionRollback, http.StatusConflict},
	{trust.ErrVersionGap, http.StatusConflict},
	{trust.ErrVanished, http.StatusConflict},
	// Refusals of certs/trust about what was uploaded.
	{trust.ErrSignature, http.StatusUnprocessableEntity},
	{trust.ErrThreshold, http.StatusUnprocessableEntity},
	{trust.ErrMalformed, http.StatusUnprocessableEntity},
	{trust.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{trust.ErrSchema, http.StatusUnprocessableEntity},
	{trust.ErrExpired, http.StatusUnprocessableEntity},
	{trust.ErrTrustDomain, http.StatusUnprocessableEntity},
	{trust.ErrKind, http.StatusUnprocessableEntity},
	{trust.ErrLength, http.StatusUnprocessableEntity},
	{artifact.ErrIndex, http.StatusUnprocessableEntity},
	{trust.ErrDigest, http.StatusUnprocessableEntity},
}

// problemOf is what the caller hears about an error; get says that the request
// has no body, so that what a FieldError points at is a parameter. ok is false
// for an error that is not the caller's.
func problemOf(err error, get bool) (p *Problem, ok bool) {
	if errors.As(err, &p) {
		return p, true
	}
	var field *fleet.FieldError
	if errors.As(err, &field) {
		if get {
			return parameterProblem(strings.TrimPrefix(field.Pointer, "/"), field.Problem), true
		}
		return fieldProblem(field.Pointer, field.Problem), true
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return problem(s.status, err.Error()), true
		}
	}
	if store.Unavailable(err) {
		return problem(http.StatusServiceUnavailable, "the database cannot be reached"), false
	}
	return problem(http.StatusInternalServerError, "internal error"), false
}

// refused turns a handler's error into the answer, and logs what is not the
// caller's fault.
func (s *Server) refused(op huma.Operation, id string, err error) *Problem {
	p, ok := problemOf(err, op.Method == http.MethodGet)
	if !ok {
		s.log.Error("request failed", "operation", op.OperationID, "request", id, "err", err)
	}
	p.Instance = id
	return p
}

func init() {
	// huma's own refusals, made before a handler runs.
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		p := problem(status, message)
		if ctx != nil {
			p.Instance = requestID(ctx.Context())
		}
		for _, err := range errs {
			var detail huma.ErrorDetailer
			if errors.As(err, &detail) {
				p.Errors = append(p.Errors, causeOf(detail.ErrorDetail()))
			}
		}
		if len(p.Errors) == 1 && status < 500 {
			p.Detail = strings.TrimPrefix(firstOf(p.Errors[0].Pointer, p.Errors[0].Parameter, p.Errors[0].Header)+": ", ": ") + p.Errors[0].Detail
		}
		return p
	}
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return huma.NewErrorWithContext(nil, status, message, errs...)
	}
	// "Name" is not "name".
	huma.ValidateStrictCasing = true
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

var missingProperty = regexp.MustCompile(`^expected required property (\S+) to be present$`)

// causeOf translates huma's location, such as "body.waves[2].percent" or
// "query.limit". What was sent is not repeated.
func causeOf(d *huma.ErrorDetail) Cause {
	where, rest, _ := strings.Cut(d.Location, ".")
	switch {
	case where == "query" || where == "path":
		return Cause{Parameter: rest, Detail: d.Message}
	case where == "header":
		return Cause{Header: rest, Detail: d.Message}
	case where == "body" || strings.HasPrefix(where, "body["):
		location := strings.TrimPrefix(d.Location, "body")
		// huma points at the object that lacks the property.
		if m := missingProperty.FindStringSubmatch(d.Message); m != nil {
			location += "." + m[1]
		}
		return Cause{Pointer: pointerOf(location), Detail: d.Message}
	}
	return Cause{Detail: d.Message}
}

// pointerOf turns ".waves[2].percent" into "/waves/2/percent".
func pointerOf(location string) string {
	var pointer strings.Builder
	for _, c := range location {
		switch c {
		case '.', '[':
			pointer.WriteByte('/')
		case ']':
		case '~':
			pointer.WriteString("~0")
		case '/':
			pointer.WriteString("~1")
		default:
			pointer.WriteRune(c)
		}
	}
	return pointer.String()
}

// writeProblem answers outside of huma.
func writeProblem(w http.ResponseWriter, p *Problem, log *slog.Logger) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	if err := json.NewEncoder(w).Encode(p); err != nil {
		log.Debug("answer not written", "request", p.Instance, "err", err)
	}
}

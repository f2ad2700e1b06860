// Package api is what operators touch: the REST interface of fleetd, described
// by OpenAPI 3.1 at /openapi.json and browsable at /docs, both made from the
// handlers. It is the only package that knows the huma library.
//
// A request passes, in this order: a request id (the caller's, if it is a
// slug, else a new one; it comes back in the answer and stands in the audit
// trail), the bearer token and the role that the operation asks for, the
// checks that the schema can make (unknown query parameters and body fields
// are refused by name), and the handler, which turns the body into the
// vocabulary of fleetd/fleet, calls fleetd/store, and turns the result back.
// No rule of the domain lives here.
//
// Roles: a viewer reads, an operator changes devices, cohorts, rollouts and
// commands, an admin also releases, artifacts and roots, and reads the audit
// trail.
//
// What exists has a revision, which is its ETag. A change needs If-Match with
// the ETag that the caller has seen: 428 without, 412 when somebody else was
// faster. A creation may carry an Idempotency-Key: the same key with the same
// request gives the same object, however often it is sent.
//
// Every refusal is a problem (RFC 9457, application/problem+json) that points
// at the field by JSON pointer, or names the parameter or header. problem.go
// is the only place where errors become status codes; what it does not know
// is a 500 without detail, and the log has the rest.
package api

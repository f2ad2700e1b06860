package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

const (
	// uploadTimeout bounds an upload as a whole.
	uploadTimeout = 6 * time.Hour
	// uploadStalled is how long an upload may go without a byte.
	uploadStalled = time.Minute
)

// upload is the input of an operation that streams its body.
type upload struct {
	ArtifactPath
	length  int64 // -1: not said
	source  io.Reader
	control *http.ResponseController
}

// Resolve is called by huma before the handler: it keeps the body for the
// handler to read.
func (u *upload) Resolve(ctx huma.Context) []error {
	r, w := humago.Unwrap(ctx)
	u.length, u.source, u.control = r.ContentLength, r.Body, http.NewResponseController(w)
	return nil
}

// Read reads the body and gives it more time for as long as something comes.
func (u *upload) Read(p []byte) (int, error) {
	limit := time.Now().Add(uploadStalled)
	if err := errors.Join(u.control.SetReadDeadline(limit), u.control.SetWriteDeadline(limit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return u.source.Read(p)
}

// uploadProblem tells a sender that went away or fell asleep from what is
// wrong with the bytes.
func (s *Server) uploadProblem(in *upload, err error) error {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return problem(http.StatusRequestTimeout, "nothing came for "+uploadStalled.String())
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled):
		return problem(http.StatusBadRequest, "the body ended before its Content-Length")
	}
	if p, ok := problemOf(err, false); ok && len(p.Errors) == 0 {
		p.Errors = []Cause{{Parameter: "sha256", Detail: err.Error()}} // what the bytes do not fit
		if p.Status == http.StatusRequestEntityTooLarge {
			p.Errors = []Cause{{Header: "Content-Length", Detail: err.Error()}}
		}
		return p
	}
	return err
}

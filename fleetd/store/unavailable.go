package store

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Unavailable reports whether an error of the store means that PostgreSQL
// could not be reached or did not answer in time: nothing is wrong with what
// was asked, and later it may succeed. A change may have been made all the
// same, if the connection broke while it was committed.
func Unavailable(err error) bool {
	var connect *pgconn.ConnectError
	var pg *pgconn.PgError
	var network net.Error
	switch {
	case errors.As(err, &pg):
		// PostgreSQL, appendix A: 08 connection exceptions, 53 insufficient
		// resources, 57P0x shutdown, crash, start-up.
		return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "53") || strings.HasPrefix(pg.Code, "57P0")
	case errors.As(err, &connect), errors.As(err, &network):
		return true
	case errors.Is(err, context.DeadlineExceeded): // waiting for a connection of the pool, or for the answer
		return true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return true
	}
	return pgconn.SafeToRetry(err) // a pooled connection that turned out to be dead
}

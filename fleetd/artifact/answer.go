package artifact

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// stalled is how long a client may take for one piece of a download before its
// connection is given up.
const stalled = time.Minute

// answer sends a body piece by piece: each when the limits allow, each with a deadline
// of its own, so that a download takes as long as it needs while it makes progress,
// each counted. It hides the other methods of the ResponseWriter, so that every piece
// goes through Write.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	ctx     context.Context
	kind    kind
	status  int // 0: not known yet
	limits  *Limits
	metrics *Metrics
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(data []byte) (sent int, err error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	bytes := a.metrics.bytes.With(string(a.kind), a.statusText())
	for len(data) > 0 {
		next := data[:min(len(data), piece)]
		if a.status < http.StatusMultipleChoices { // refusals are short, and must not queue
			if err := a.limits.wait(a.ctx, len(next), a.metrics); err != nil {
				return sent, err
			}
		}
		if err := a.putOff(); err != nil {
			return sent, err
		}
		n, err := a.ResponseWriter.Write(next)
		sent += n
		bytes.Add(float64(n))
		if err != nil {
			return sent, err
		}
		data = data[n:]
	}
	return sent, nil
}

// putOff sets the deadline for what is sent next. It outlives an answer, so one without
// a body needs it as well.
func (a *answer) putOff() error {
	err := a.control.SetWriteDeadline(time.Now().Add(stalled))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// statusText is the status for a metric; an answer without a body has none of its own.
func (a *answer) statusText() string {
	if a.status == 0 {
		return strconv.Itoa(http.StatusOK)
	}
	return strconv.Itoa(a.status)
}

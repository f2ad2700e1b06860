package mqtt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// subprotocol must be among those that a client offers [MQTT-6.0.0-3].
	subprotocol = "mqtt"
	// maxRequest is the longest request, in bytes, by which a client may ask for
	// a WebSocket.
	maxRequest = 8 << 10
)

// Refusals of a WebSocket.
var (
	errUpgrade = errors.New("not a request for MQTT over WebSocket")
	errOrigin  = errors.New("the page that asks for the WebSocket is not from here")
	errFrame   = errors.New("not a stream of binary WebSocket messages")
)

// webSocket carries a connection's bytes in binary messages, which may be cut
// anywhere [MQTT-6.0.0-2]. The library parses and encodes frames only: what it
// writes (pongs and closing frames included) goes to the conn's bounded buffer,
// and what a frame holds is passed on as it comes, however long the frame says
// that it is. Ping frames do not count for the keep-alive.
type webSocket struct {
	socket  *socket
	ws      *websocket.Conn
	message io.Reader // what is left of the current message; only the reader uses it

	mu sync.Mutex // held while a message is written; conn.mu may be taken under it
}

// socket is the conn as the library sees it. Writes do not block; deadlines and
// the end are the conn's business.
type socket struct {
	net.Conn
	c   *conn
	err error // of reading; only the reader uses it
}

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

func (s *socket) Write(p []byte) (int, error)      { return s.c.queue(p) }
func (s *socket) SetDeadline(time.Time) error      { return nil }
func (s *socket) SetReadDeadline(time.Time) error  { return nil }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }
func (s *socket) Close() error                     { return nil }

// upgrader refuses a browser's page from another host; clients that send no
// Origin are no browsers. All connections share the buffers for writing.
var upgrader = websocket.Upgrader{
	Subprotocols:    []string{subprotocol},
	ReadBufferSize:  1024,
	WriteBufferSize: 1024,
	WriteBufferPool: &sync.Pool{},
	Error:           func(w http.ResponseWriter, _ *http.Request, status int, _ error) { w.WriteHeader(status) },
}

// upgrade reads the request that makes a WebSocket of c, and answers it. The
// path does not matter. The read deadline of CONNECT counts for it, too.
func (c *conn) upgrade() error {
	s := &socket{Conn: c.Conn, c: c}
	in := bufio.NewReaderSize(io.LimitReader(s, maxRequest), 1024)
	request, err := http.ReadRequest(in)
	if err != nil {
		if s.err != nil {
			return s.err // it went away, or said too little in time
		}
		return fmt.Errorf("%w: %w", errUpgrade, err)
	}
	answer := &reply{s: s, in: in, header: http.Header{}}
	if !slices.Contains(websocket.Subprotocols(request), subprotocol) {
		answer.WriteHeader(http.StatusBadRequest)
		return fmt.Errorf("%w: the subprotocol %q is not offered", errUpgrade, subprotocol)
	}
	ws, err := upgrader.Upgrade(answer, request, nil)
	switch {
	case err == nil:
		c.web = &webSocket{socket: s, ws: ws}
		return nil
	case answer.status == http.StatusForbidden:
		return fmt.Errorf("%w: %.100q", errOrigin, request.Header.Get("Origin"))
	}
	return fmt.Errorf("%w: %w", errUpgrade, err)
}

// reply is where the library answers a request: it takes the connection over, or
// refuses with a status.
type reply struct {
	s      *socket
	in     *bufio.Reader
	header http.Header
	status int
}

func (r *reply) Header() http.Header { return r.header }

func (r *reply) WriteHeader(status int) {
	r.status = status
	// The connection ends in any case.
	_, _ = fmt.Fprintf(r.s, "HTTP/1.1 %d %s\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		status, http.StatusText(status))
}

func (r *reply) Write([]byte) (int, error) { return 0, http.ErrBodyNotAllowed }

func (r *reply) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return r.s, bufio.NewReadWriter(r.in, bufio.NewWriterSize(r.s, 512)), nil
}

// Read reads what has come of the current message, or begins the next.
func (w *webSocket) Read(p []byte) (int, error) {
	for {
		if w.message == nil {
			kind, message, err := w.ws.NextReader()
			if err != nil {
				return 0, w.explain(err)
			}
			if kind != websocket.BinaryMessage { // [MQTT-6.0.0-1]
				w.close(websocket.CloseUnsupportedData)
				return 0, fmt.Errorf("%w: a text message", errFrame)
			}
			w.message = message
		}
		n, err := w.message.Read(p)
		switch {
		case errors.Is(err, io.EOF):
			w.message = nil
		case err != nil:
			return n, w.explain(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// explain tells a connection that ended from one that broke the rules.
func (w *webSocket) explain(err error) error {
	var farewell *websocket.CloseError
	switch {
	case w.socket.err != nil:
		return w.socket.err
	case errors.As(err, &farewell):
		return io.EOF
	}
	return fmt.Errorf("%w: %w", errFrame, err)
}

// Write makes one message of p. It does not block.
func (w *webSocket) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// close sends the closing frame, if none was sent. The TLS connection is closed
// by the conn.
func (w *webSocket) close(code int) {
	// The connection ends in any case.
	_ = w.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(drainTimeout))
}

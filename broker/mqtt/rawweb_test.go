package mqtt

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"groundswell/certs"

	"github.com/gorilla/websocket"
)

func withWebsocket(n *node) { n.cfg.WebsocketListen = "127.0.0.1:0" }

// webConn is a client's WebSocket as a stream of bytes, a message per write.
type webConn struct {
	net.Conn
	ws      *websocket.Conn
	message io.Reader
}

func (w *webConn) Write(p []byte) (int, error) {
	return len(p), w.ws.WriteMessage(websocket.BinaryMessage, p)
}

func (w *webConn) Read(p []byte) (int, error) {
	for {
		if w.message == nil {
			kind, message, err := w.ws.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("not a binary message")
			}
			w.message = message
		}
		n, err := w.message.Read(p)
		if err == io.EOF {
			w.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// webTry asks for a WebSocket; the status is that of a refusal.
func (n *node) webTry(tlsConfig *tls.Config, subprotocols []string, header http.Header) (*websocket.Conn, int, error) {
	dialer := websocket.Dialer{TLSClientConfig: tlsConfig, Subprotocols: subprotocols, HandshakeTimeout: patience}
	ws, response, err := dialer.DialContext(n.t.Context(), "wss://"+n.edge.WebsocketAddr()+"/mqtt", header)
	if err != nil {
		if response != nil {
			return nil, response.StatusCode, err
		}
		return nil, 0, err
	}
	n.t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	return ws, response.StatusCode, nil
}

// webDial is rawDial over WebSocket.
func (n *node) webDial(credential certs.Credential, version byte) *raw {
	n.t.Helper()
	ws, _, err := n.webTry(n.config(credential, "").TLS, []string{"other", "mqtt"}, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	if ws.Subprotocol() != "mqtt" {
		n.t.Fatalf("subprotocol %q", ws.Subprotocol())
	}
	conn := &webConn{Conn: ws.NetConn(), ws: ws}
	return &raw{t: n.t, conn: conn, in: bufio.NewReader(conn), version: version}
}

func (r *raw) web() *webConn { return r.conn.(*webConn) }

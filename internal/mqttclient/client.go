package mqttclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"groundswell/internal/backoff"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

// Client keeps a connection to the broker up while Run runs.
type Client struct {
	cfg  Config
	urls []*url.URL

	mu       sync.Mutex // guards what follows
	running  bool
	stop     context.CancelFunc // ends Run
	dialled  *wire              // the newest connection, up or not
	up       *link              // nil while the connection is down
	upSince  time.Time
	attempts int // since a connection last lasted
	first    int // the server that is tried first
}

// New checks cfg. It does no I/O.
func New(cfg Config) (*Client, error) {
	urls, err := cfg.prepare()
	if err != nil {
		return nil, fmt.Errorf("mqtt client: %w", err)
	}
	return &Client{cfg: cfg, urls: urls}, nil
}

// Run connects, and connects again whenever the connection goes, until ctx
// ends or Disconnect is called; then it says goodbye to the broker and returns
// nil. When it returns, no callback runs any more. It may be called once at a
// time.
func (c *Client) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c.mu.Lock()
	if c.running {
		c.mu.Unlock()
		return errors.New("mqtt client: already running")
	}
	c.running, c.stop, c.attempts = true, stop, 0
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.running, c.up = false, nil
		c.mu.Unlock()
	}()

	var callbacks sync.WaitGroup
	defer callbacks.Wait()
	cc := c.cfg.client()
	cc.OnPublishReceived = []func(paho.PublishReceived) (bool, error){deliver(c.current, &c.cfg)}
	manager, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls:                    c.urls, // how many there are: rotated says which it is
		CleanStartOnInitialConnection: c.cfg.CleanStart,
		ConnectTimeout:                c.cfg.ConnectTimeout,
		ReconnectBackoff:              c.pause,
		AttemptConnection: func(ctx context.Context, _ autopaho.ClientConfig, u *url.URL) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
			defer cancel()
			w, err := dial(ctx, c.rotated(u), c.cfg.TLS, int(c.cfg.MaxPacketSize))
			if err != nil {
				return nil, err
			}
			c.mu.Lock()
			c.dialled = w
			c.mu.Unlock()
			return w, nil
		},
		ConnectPacketBuilder: func(p *paho.Connect, _ *url.URL) (*paho.Connect, error) {
			return c.cfg.connect(p.CleanStart), nil
		},
		OnConnectionUp: func(m *autopaho.ConnectionManager, ack *paho.Connack) {
			c.connected(m, ack, &callbacks)
		},
		OnConnectionDown: func() bool { c.disconnected(); return true },
		OnConnectError:   c.connectFailed,
		ClientConfig:     cc,
	})
	if err != nil {
		return fmt.Errorf("mqtt client: %w", err)
	}
	<-manager.Done()
	// OnUp waits for nothing once its connection is gone.
	if w := c.current(); w != nil {
		_ = w.Close() // closing twice is fine
	}
	return nil
}

// rotated is the server to try where autopaho would try u. It begins with the first
// again after each connection; we begin with the next when a connection did not
// last, because a broker that lets us in and then drops us keeps us from the others.
func (c *Client) rotated(u *url.URL) *url.URL {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.urls[(max(0, slices.Index(c.urls, u))+c.first)%len(c.urls)]
}

func (c *Client) current() *wire {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dialled
}

// pause is how long to wait before the next attempt. autopaho's own count
// begins anew with every connection, so a broker that accepts and drops us at
// once would be hammered; ours does not.
func (c *Client) pause(int) time.Duration {
	c.mu.Lock()
	n := c.attempts
	c.attempts++
	c.mu.Unlock()
	if n == 0 {
		return 0
	}
	return backoff.Range(c.cfg.Backoff).Draw(n)
}

func (c *Client) connected(m *autopaho.ConnectionManager, ack *paho.Connack, callbacks *sync.WaitGroup) {
	c.mu.Lock()
	w := c.dialled
	c.up = &link{wire: w, to: m, maxPacket: serverMaxPacket(ack)}
	c.upSince = time.Now()
	c.mu.Unlock()
	c.cfg.Log.Info("connected to broker", "server", w.RemoteAddr().String(), "session_present", ack.SessionPresent)
	if c.cfg.OnUp == nil {
		return
	}
	callbacks.Go(func() {
		if err := c.cfg.OnUp(w.lost, c, ack.SessionPresent); err != nil && w.lost.Err() == nil {
			c.cfg.Log.Warn("connection given up: it could not be set up", "err", err)
			_ = w.Close() // closing twice is fine
		}
	})
}

func (c *Client) disconnected() {
	c.mu.Lock()
	w := c.dialled
	c.up = nil
	if time.Since(c.upSince) > c.cfg.Backoff.Max {
		c.attempts = 1 // not 0: the whole fleet lost the same broker just now
	} else {
		c.first = (c.first + 1) % len(c.urls)
	}
	c.mu.Unlock()
	_ = w.Close() // usually closed; ends whoever waits on it
	reason := context.Cause(w.lost)
	c.cfg.Log.Warn("connection to broker lost", "err", reason)
	if c.cfg.OnDown != nil {
		c.cfg.OnDown(reason)
	}
}

func (c *Client) connectFailed(err error) {
	var denied *autopaho.ConnackError
	if errors.As(err, &denied) {
		err = &RefusedError{Packet: "CONNACK", Code: denied.ReasonCode, Reason: denied.Reason}
	}
	c.cfg.Log.Warn("cannot connect to broker", "err", err)
	if c.cfg.OnConnectError != nil {
		c.cfg.OnConnectError(err)
	}
}

// Connected reports whether the connection is up now.
func (c *Client) Connected() bool {
	_, err := c.live()
	return err == nil
}

func (c *Client) live() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.up == nil || c.up.wire.lost.Err() != nil {
		return nil, ErrNotConnected
	}
	return c.up, nil
}

// Publish sends p. At QoS 1 it waits for PUBACK and returns nil only if that
// was a success; a refusal is a *RefusedError. ErrNotConnected means that
// nothing was sent; after ErrConnectionLost, ErrTimeout or ctx's error the
// broker may have stored it. At QoS 0 nil means only that it was sent.
// Publishes may run at the same time; they leave in the order of the calls.
func (c *Client) Publish(ctx context.Context, p Publication) error {
	l, err := c.live()
	if err != nil {
		return err
	}
	return l.publish(ctx, p)
}

// Subscribe adds subscriptions to the session. It is an error if any filter was
// refused (a *RefusedError for each); the others hold nevertheless.
func (c *Client) Subscribe(ctx context.Context, subs []Subscription) error {
	l, err := c.live()
	if err != nil {
		return err
	}
	return l.subscribe(ctx, subs)
}

// Unsubscribe removes subscriptions from the session.
func (c *Client) Unsubscribe(ctx context.Context, filters []string) error {
	l, err := c.live()
	if err != nil {
		return err
	}
	return l.unsubscribe(ctx, filters)
}

// Timing says how long the newest connection took to dial and to secure; the
// CONNECT packet left when both were done. Connect is 0.
func (c *Client) Timing() Timing {
	w := c.current()
	if w == nil {
		return Timing{}
	}
	return w.timing
}

// Drop closes the connection now, without a goodbye, as a lost network would;
// Run connects again after a backoff. It is for renewing certificates.
func (c *Client) Drop() {
	if l, err := c.live(); err == nil {
		_ = l.wire.Close() // closing twice is fine
	}
}

// Disconnect ends Run, without waiting for it.
func (c *Client) Disconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		c.stop()
	}
}

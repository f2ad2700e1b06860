package mqttclient

import (
	"context"
	"errors"
	"fmt"

	"github.com/eclipse/paho.golang/paho"
)

// requester is what paho.Client and autopaho.ConnectionManager have in common.
type requester interface {
	Publish(context.Context, *paho.Publish) (*paho.PublishResponse, error)
	Subscribe(context.Context, *paho.Subscribe) (*paho.Suback, error)
	Unsubscribe(context.Context, *paho.Unsubscribe) (*paho.Unsuback, error)
}

// link is a live connection as Publish and Subscribe use it.
type link struct {
	wire      *wire
	to        requester
	maxPacket uint32 // the server's limit; 0 means none
}

// within runs a request on ctx, but no longer than the connection lives.
func (l *link) within(ctx context.Context, do func(context.Context) error) error {
	if l.wire.lost.Err() != nil {
		return ErrNotConnected
	}
	reqCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.wire.lost, cancel)()
	err := do(reqCtx)
	var refused *RefusedError
	switch {
	case err == nil, errors.As(err, &refused), errors.Is(err, ErrPacketTooLarge):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case l.wire.lost.Err() != nil:
		return context.Cause(l.wire.lost)
	case errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	}
	return err
}

func (l *link) publish(ctx context.Context, p Publication) error {
	if p.QoS > 1 {
		return fmt.Errorf("publish to %s: QoS %d is not supported", p.Topic, p.QoS)
	}
	if size := p.size(); l.maxPacket > 0 && size > int(l.maxPacket) {
		return fmt.Errorf("publish to %s: %w: about %d bytes, the broker takes %d", p.Topic, ErrPacketTooLarge, size, l.maxPacket)
	}
	return l.within(ctx, func(ctx context.Context) error {
		resp, err := l.to.Publish(ctx, p.packet())
		if resp != nil && resp.ReasonCode >= refusal {
			return taken(resp, p.Topic)
		}
		return err
	})
}

// refusal is where reason codes begin that mean no.
const refusal = 0x80

// taken is what PUBACK means.
func taken(resp *paho.PublishResponse, topic string) error {
	if resp.ReasonCode < refusal {
		return nil
	}
	refused := &RefusedError{Packet: "PUBACK", Code: resp.ReasonCode, Topic: topic}
	if resp.Properties != nil {
		refused.Reason = resp.Properties.ReasonString
		for _, u := range resp.Properties.User {
			refused.Properties = append(refused.Properties, Property{u.Key, u.Value})
		}
	}
	return refused
}

func (l *link) subscribe(ctx context.Context, subs []Subscription) error {
	packet, err := subscribePacket(subs)
	if err != nil {
		return err
	}
	return l.within(ctx, func(ctx context.Context) error {
		ack, err := l.to.Subscribe(ctx, packet)
		if ack == nil {
			return err
		}
		return granted(ack, subs)
	})
}

func subscribePacket(subs []Subscription) (*paho.Subscribe, error) {
	packet := &paho.Subscribe{}
	for _, s := range subs {
		if s.QoS > 1 {
			return nil, fmt.Errorf("subscribe to %s: QoS %d is not supported", s.Filter, s.QoS)
		}
		packet.Subscriptions = append(packet.Subscriptions, paho.SubscribeOptions{
			Topic: s.Filter, QoS: s.QoS, NoLocal: s.NoLocal, RetainHandling: byte(s.RetainHandling),
		})
	}
	return packet, nil
}

// granted is what SUBACK means.
func granted(ack *paho.Suback, subs []Subscription) error {
	reason := ""
	if ack.Properties != nil {
		reason = ack.Properties.ReasonString
	}
	if len(ack.Reasons) != len(subs) {
		return fmt.Errorf("subscribe: broker answered for %d of %d filters", len(ack.Reasons), len(subs))
	}
	var refusals []error
	for i, code := range ack.Reasons {
		if code >= refusal {
			refusals = append(refusals, &RefusedError{Packet: "SUBACK", Code: code, Reason: reason, Topic: subs[i].Filter})
		}
	}
	return errors.Join(refusals...)
}

func (l *link) unsubscribe(ctx context.Context, filters []string) error {
	return l.within(ctx, func(ctx context.Context) error {
		ack, err := l.to.Unsubscribe(ctx, &paho.Unsubscribe{Topics: filters})
		if ack == nil {
			return err
		}
		var refusals []error
		for i, code := range ack.Reasons {
			if code >= 0x80 && i < len(filters) {
				refusals = append(refusals, &RefusedError{Packet: "UNSUBACK", Code: code, Topic: filters[i]})
			}
		}
		return errors.Join(refusals...)
	})
}

// deliver makes paho's callback for received messages.
func deliver(w func() *wire, cfg *Config) func(paho.PublishReceived) (bool, error) {
	return func(in paho.PublishReceived) (bool, error) {
		var ack func() error
		if cfg.ManualAck && in.Packet.QoS > 0 {
			on, packet, client := w(), in.Packet, in.Client
			ack = func() error {
				if on.lost.Err() != nil {
					return ErrConnectionLost
				}
				if err := client.Ack(packet); err != nil {
					return fmt.Errorf("%w: %w", ErrConnectionLost, err) // the tracker was reset
				}
				return nil
			}
		}
		if cfg.OnMessage == nil {
			if ack != nil {
				return true, ack()
			}
			return true, nil
		}
		cfg.OnMessage(received(in.Packet, ack))
		return true, nil
	}
}

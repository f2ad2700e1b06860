package topics

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// RefusedAction is what a device was refused.
type RefusedAction string

// What can be refused: to connect, to publish, to subscribe, to be read any
// further after a packet that is malformed, too large or out of order, and to
// stay with a certificate that is revoked or has run out.
const (
	RefusedConnect   RefusedAction = "connect"
	RefusedPublish   RefusedAction = "publish"
	RefusedSubscribe RefusedAction = "subscribe"
	RefusedPacket    RefusedAction = "packet"
	RefusedSession   RefusedAction = "session"
)

// Refusal is the broker's word that it refused something to the device whose
// certificate the client showed. What the client sent is clipped (ClipText) to
// MaxRefusalText bytes a field. The broker bounds how many it sends of one
// device: an absent one proves nothing.
type Refusal struct {
	Schema int           `json:"schema"`
	Action RefusedAction `json:"action"`
	// Topic or filter. Absent: it was not about one.
	Topic string `json:"topic,omitempty"`
	// Reason is a slug that counts well: "not-authorized", "payload-size",
	// "client-id". Detail is for people; it may be absent.
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// Client is the client id that was used. Absent: none.
	Client string    `json:"client,omitempty"`
	Node   string    `json:"node"`
	At     time.Time `json:"at"`
}

// MaxRefusalText is the longest topic, detail or client id in a refusal, in
// bytes.
const MaxRefusalText = 200

// Validate returns a FieldError unless r can be stored.
func (r Refusal) Validate() error {
	checks := []error{
		checkSchema(r.Schema),
		oneOf("action", r.Action, RefusedConnect, RefusedPublish, RefusedSubscribe, RefusedPacket, RefusedSession),
		checkClipped("topic", r.Topic),
		CheckID("reason", r.Reason),
		checkClipped("detail", r.Detail),
		checkClipped("client", r.Client),
		CheckID("node", r.Node),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	if r.At.IsZero() {
		return invalid("at", "is absent")
	}
	return nil
}

func checkClipped(field, text string) error {
	if ClipText(text, MaxRefusalText) != text {
		return invalid(field, "must be at most %d bytes of UTF-8 without control characters", MaxRefusalText)
	}
	return nil
}

// ClipText makes a hostile text fit to be kept: control characters and what is
// not UTF-8 become U+FFFD, and of what is longer than limit bytes whole
// characters go.
func ClipText(text string, limit int) string {
	text = text[:min(len(text), limit+utf8.UTFMax)] // it only grows from here
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, text)
	if len(text) <= limit {
		return text
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}

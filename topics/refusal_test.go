package topics

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// TestWhateverAClientSentFitsARefusal: no topic or client id, however hostile,
// makes a refusal that the other side would not take.
func TestWhateverAClientSentFitsARefusal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := rapid.SampledFrom([]string{"", strings.Repeat("<", 400), strings.Repeat("\u2028", 400)}).Draw(t, "escapes") +
			string(rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		clipped := ClipText(sent, MaxRefusalText)
		if len(clipped) > MaxRefusalText || !utf8.ValidString(clipped) || strings.ContainsRune(clipped, 0) {
			t.Fatalf("%q became %q", sent, clipped)
		}
		raw, err := Encode(Refusal{
			Schema: Schema, Action: RefusedPublish, Topic: clipped, Reason: "not-authorized", Detail: clipped, Client: clipped,
			Node: "broker-1", At: time.Unix(1, 0),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeRefusal(raw); err != nil {
			t.Fatalf("%d bytes: %v", len(raw), err)
		}
	})
}

func TestRefusalThatIsNoneIsNotStored(t *testing.T) {
	good := Refusal{Schema: Schema, Action: RefusedPublish, Reason: "not-authorized", Node: "broker-1", At: time.Unix(1, 0)}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*Refusal){
		"unknown action": func(r *Refusal) { r.Action = "reboot" },
		"no reason":      func(r *Refusal) { r.Reason = "" },
		"no slug":        func(r *Refusal) { r.Reason = "not authorized" },
		"no node":        func(r *Refusal) { r.Node = "" },
		"no time":        func(r *Refusal) { r.At = time.Time{} },
		"long topic":     func(r *Refusal) { r.Topic = strings.Repeat("a", MaxRefusalText+1) },
		"NUL":            func(r *Refusal) { r.Client = "a\x00b" },
	} {
		bad := good
		spoil(&bad)
		t.Run(what, func(t *testing.T) { mustRefuse(t, ErrInvalid, bad.Validate) })
	}
}

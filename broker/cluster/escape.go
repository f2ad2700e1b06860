package cluster

import (
	"fmt"
	"strconv"
	"strings"
)

// A topic is any UTF-8 text in levels, a subject is tokens of few characters. A
// level becomes a token, so that filters can be translated too.

// maxSubject is the longest subject that the store takes: it notes lengths in two
// bytes, and puts prefixes before it.
const maxSubject = 65000

// CheckTopic returns ErrTopic for a topic that is too long to be stored. Every one
// of up to 21,000 bytes is short enough.
func CheckTopic(topic string) error {
	if len(topic) > maxSubject/3 && len(subjectOf(topic)) > maxSubject {
		return fmt.Errorf("%w: %d bytes", ErrTopic, len(topic))
	}
	return nil
}

// subjectOf is the subject of a topic.
func subjectOf(topic string) string {
	levels := strings.Split(topic, "/")
	for i, level := range levels {
		levels[i] = token(level)
	}
	return strings.Join(levels, ".")
}

// topicOf undoes subjectOf.
func topicOf(subject string) (string, error) {
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		level, err := untoken(t)
		if err != nil {
			return "", fmt.Errorf("subject %q: %w", subject, err)
		}
		tokens[i] = level
	}
	return strings.Join(tokens, "/"), nil
}

// subjectsOf are the subjects that together hold what a filter matches, and
// topics that begin with '$', which a wildcard at the beginning does not match.
func subjectsOf(filter string) []string {
	if filter == "#" {
		return []string{">"}
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch level {
		case "+":
			levels[i] = "*"
		case "#":
			parent := strings.Join(levels[:i], ".")
			return []string{parent, parent + ".>"} // "a/#" matches "a" [MQTT-4.7.1-2]
		default:
			levels[i] = token(level)
		}
	}
	return []string{strings.Join(levels, ".")}
}

// token makes a subject token of any text: what is not a letter, a digit, '-' or
// '_' becomes '=' and two hexadecimal digits.
func token(text string) string {
	var b strings.Builder
	for i := range len(text) {
		switch ch := text[i]; {
		case ch >= 'a' && ch <= 'z', ch >= 'A' && ch <= 'Z', ch >= '0' && ch <= '9', ch == '-', ch == '_':
			b.WriteByte(ch)
		default:
			fmt.Fprintf(&b, "=%02X", ch)
		}
	}
	if b.Len() == 0 {
		return "=" // nothing
	}
	return b.String()
}

// untoken undoes token.
func untoken(text string) (string, error) {
	if text == "=" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '=' {
			b.WriteByte(text[i])
			continue
		}
		if i+2 >= len(text) {
			return "", fmt.Errorf("%q is not a token", text)
		}
		ch, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("%q is not a token", text)
		}
		b.WriteByte(byte(ch))
		i += 2
	}
	return b.String(), nil
}

// Package redact takes out of a text what looks like a secret, before it leaves the
// device: what firmware prints is not of our making, and a log is read by more people
// than may know its passwords.
//
// It errs on the side of taking out too much, and promises nothing: whoever prints a
// secret without a name before it cannot be helped.
package redact

import "regexp"

// Mark stands in the place of what was taken out.
const Mark = "[redacted]"

var (
	keyBegin = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)
	keyEnd   = regexp.MustCompile(`-----END [A-Z0-9 ]*PRIVATE KEY-----`)
)

var patterns = []struct {
	pattern *regexp.Regexp
	with    string
}{
	// Private keys, to the end if theirs is missing.
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), Mark},
	// JSON web tokens.
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`), Mark},
	// User and password in a URL.
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@"']*@`), "${1}" + Mark + "@"},
	// Authorization: Basic ..., also as a field of a log.
	{regexp.MustCompile(`(?i)(authorization["']?\s*[:=]\s*["']?(?:(?:basic|bearer|digest|token)\s+)?)[^\s"',;]+`), "${1}" + Mark},
	// password=..., "api_key": "...", SECRET_TOKEN: ...
	{regexp.MustCompile(`(?i)([\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential)[\w.-]*["']?\s*[:=]\s*)("[^"\n]*"|'[^'\n]*'|[^\s,;&]+)`), "${1}" + Mark},
}

// Text is text without what looks like a secret.
func Text(text string) string {
	// The end of something longer may begin in the middle of a key.
	if end := keyEnd.FindStringIndex(text); end != nil && !keyBegin.MatchString(text[:end[0]]) {
		text = Mark + text[end[1]:]
	}
	for _, p := range patterns {
		text = p.pattern.ReplaceAllString(text, p.with)
	}
	return text
}

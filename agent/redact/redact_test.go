package redact

import (
	"strings"
	"testing"
)

func TestSecretsAreTakenOut(t *testing.T) {
	key := "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIsecret\nsecret\n-----END EC PRIVATE KEY-----"
	for _, c := range []struct{ text, want string }{
		{"nothing to hide", "nothing to hide"},
		{"key:\n" + key + "\nafter", "key:\n[redacted]\nafter"},
		{key[:50], "[redacted]"},
		{"secret\n-----END PRIVATE KEY-----\nafter", "[redacted]\nafter"},
		{key[40:] + "\nbefore " + key, "[redacted]\nbefore [redacted]"},
		{"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"},
		{"got eyJhbGciOi.eyJzdWIi.c2ln-_ from it", "got [redacted] from it"},
		{"mqtts://user:pass@broker:8883 and http://host/path", "mqtts://[redacted]@broker:8883 and http://host/path"},
		{"Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"},
		{`{"authorization":"Basic dXNlcg=="}`, `{"authorization":"Basic [redacted]"}`},
		{"password=hunter2 user=bob", "password=[redacted] user=bob"},
		{`{"api_key": "a b c", "x": 1}`, `{"api_key": [redacted], "x": 1}`},
		{"WIFI_PASSWD: 'two words' ok", "WIFI_PASSWD: [redacted] ok"},
		{"level=WARN token=abc;next", "level=WARN token=[redacted];next"},
		{"the token was refused", "the token was refused"},
	} {
		if got := Text(c.text); got != c.want {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
		if again := Text(Text(c.text)); strings.Count(again, Mark) != strings.Count(c.want, Mark) {
			t.Errorf("%q, twice: %q", c.text, again)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("password=x")
	f.Add("-----BEGIN PRIVATE KEY-----")
	f.Fuzz(func(t *testing.T, noise string) {
		const secret = "S3cr3tS3cr3t"
		for _, text := range []string{
			noise + "\npassword=" + secret + "\n" + noise,
			noise + "\n-----BEGIN PRIVATE KEY-----\n" + secret,
		} {
			if got := Text(text); strings.Contains(got, secret) && !strings.Contains(noise, secret) {
				t.Errorf("%q: %q", text, got)
			}
		}
	})
}

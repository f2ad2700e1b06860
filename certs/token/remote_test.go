package token_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"groundswell/certs/token"
)

const sso = "https://sso.example.org"

// keyServer is an issuer's JWKS endpoint.
type keyServer struct {
	*httptest.Server
	body    atomic.Value // string; empty is an outage
	fetches atomic.Int64
}

func newKeyServer(t *testing.T, keys ...json.RawMessage) *keyServer {
	t.Helper()
	s := &keyServer{}
	s.publish(t, keys...)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.fetches.Add(1)
		body := s.body.Load().(string)
		if body == "" {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) publish(t *testing.T, keys ...json.RawMessage) {
	t.Helper()
	s.body.Store(string(must[[]byte](t)(json.Marshal(map[string]any{"keys": keys}))))
}

func (s *keyServer) goDown() { s.body.Store("") }

func external(s *keyServer) token.External {
	return token.External{Issuer: sso, JWKSURL: s.URL, RefreshUnknown: time.Nanosecond}
}

func ssoClaims(roles any) jwt.MapClaims {
	c := claims()
	delete(c, "role")
	c["iss"], c["roles"] = sso, roles
	return c
}

func TestJWKSAlgorithms(t *testing.T) {
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	ec := ecKey(t)
	public, ed, _ := ed25519.GenerateKey(rand.Reader)
	s := newKeyServer(t, jwk(t, "rsa", rsaKey.Public()), jwk(t, "ec", ec.Public()), jwk(t, "ed", public),
		json.RawMessage(`{"kty":"oct","kid":"oct","k":"c2VjcmV0","alg":"HS256"}`), json.RawMessage(`{"kty":"AKP","kid":"future"}`))
	v := newVerifier(t, token.Config{External: []token.External{external(s)}})
	for _, test := range []struct {
		name   string
		method jwt.SigningMethod
		kid    any
		key    any
		want   error
	}{
		{"RS256", jwt.SigningMethodRS256, "rsa", rsaKey, nil},
		{"ES256", jwt.SigningMethodES256, "ec", ec, nil},
		{"EdDSA", jwt.SigningMethodEdDSA, "ed", ed, nil},
		{"RS512", jwt.SigningMethodRS512, "rsa", rsaKey, token.ErrAlgorithm},
		{"PS256", jwt.SigningMethodPS256, "rsa", rsaKey, token.ErrAlgorithm},
		{"HS256 with a symmetric key of the set", jwt.SigningMethodHS256, "oct", []byte("secret"), token.ErrAlgorithm},
		{"none", jwt.SigningMethodNone, "rsa", jwt.UnsafeAllowNoneSignatureType, token.ErrAlgorithm},
		{"a key of another kind", jwt.SigningMethodES256, "rsa", ec, token.ErrSignature},
		{"another key of the set", jwt.SigningMethodES256, "ec", ecKey(t), token.ErrSignature},
		{"no key id", jwt.SigningMethodES256, nil, ec, token.ErrKey},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := v.Verify(t.Context(), sign(t, test.method, test.key, test.kid, ssoClaims("viewer")))
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestIssuersCannotSpeakForEachOther(t *testing.T) {
	ec := ecKey(t)
	s := newKeyServer(t, jwk(t, "ec", ec.Public()))
	mine := newKey(t)
	v := newVerifier(t, token.Config{Keys: []ed25519.PublicKey{mine.Public()}, External: []token.External{external(s)}})

	asOwn := claims() // the external issuer's key signs in the own issuer's name
	if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodES256, ec, "ec", asOwn)); !errors.Is(err, token.ErrAlgorithm) {
		t.Errorf("got %v, want %v", err, token.ErrAlgorithm)
	}
	raw := must[string](t)(token.NewIssuer(mine, sso, audience).Sign("alice", token.Admin, now, time.Hour))
	if _, err := v.Verify(t.Context(), raw); !errors.Is(err, token.ErrKey) {
		t.Errorf("got %v, want %v", err, token.ErrKey)
	}
}

func TestJWKSRotation(t *testing.T) {
	first, second := ecKey(t), ecKey(t)
	s := newKeyServer(t, jwk(t, "1", first.Public()))
	v := newVerifier(t, token.Config{External: []token.External{external(s)}})
	verify := func(kid string, key any) error {
		_, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodES256, key, kid, ssoClaims("viewer")))
		return err
	}
	if err := verify("1", first); err != nil {
		t.Fatal(err)
	}
	s.publish(t, jwk(t, "2", second.Public()))
	if err := verify("2", second); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := verify("1", first); !errors.Is(err, token.ErrKey) {
		t.Errorf("the old key: got %v, want %v", err, token.ErrKey)
	}
}

func TestJWKSOutageKeepsKnownKeysAndRefusesOthers(t *testing.T) {
	key, other := ecKey(t), ecKey(t)
	s := newKeyServer(t, jwk(t, "1", key.Public()))
	s.goDown()
	mine := newKey(t)
	v := newVerifier(t, token.Config{Keys: []ed25519.PublicKey{mine.Public()}, External: []token.External{external(s)}})
	raw := sign(t, jwt.SigningMethodES256, key, "1", ssoClaims("viewer"))
	if _, err := v.Verify(t.Context(), raw); !errors.Is(err, token.ErrUnavailable) {
		t.Errorf("before the first fetch: got %v, want %v", err, token.ErrUnavailable)
	}
	if err := v.Ready(); !errors.Is(err, token.ErrUnavailable) || !strings.Contains(err.Error(), sso) {
		t.Errorf("ready: got %v", err)
	}
	if _, err := v.Verify(t.Context(), must[string](t)(token.NewIssuer(mine, own, audience).Sign("alice", token.Viewer, now, time.Hour))); err != nil {
		t.Errorf("the own issuer depends on the external one: %v", err)
	}

	s.publish(t, jwk(t, "1", key.Public()))
	if _, err := v.Verify(t.Context(), raw); err != nil {
		t.Fatalf("after the outage: %v", err)
	}
	if err := v.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	for name, body := range map[string]string{
		"an outage":      "",
		"no JSON":        "<html>",
		"an empty set":   `{"keys":[]}`,
		"nothing usable": `{"keys":[{"kty":"oct","kid":"1","k":"c2VjcmV0"}]}`,
		"an endless set": `{"keys":[]}` + strings.Repeat(" ", 2<<20),
	} {
		s.body.Store(body)
		if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodES256, other, "9", ssoClaims("viewer"))); !errors.Is(err, token.ErrKey) {
			t.Errorf("%s, unknown key: got %v, want %v", name, err, token.ErrKey)
		}
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Errorf("%s, known key: %v", name, err)
		}
	}
}

func TestMadeUpKeyIDsDoNotFloodTheIssuer(t *testing.T) {
	key := ecKey(t)
	s := newKeyServer(t, jwk(t, "1", key.Public()))
	e := external(s)
	e.RefreshUnknown = time.Hour
	v := newVerifier(t, token.Config{External: []token.External{e}})
	for range 50 {
		if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodES256, key, rand.Text(), ssoClaims("viewer"))); !errors.Is(err, token.ErrKey) {
			t.Fatalf("got %v, want %v", err, token.ErrKey)
		}
	}
	if got := s.fetches.Load(); got != 1 {
		t.Errorf("got %d fetches, want 1", got)
	}
}

func TestRunFetchesKeysAndEnds(t *testing.T) {
	s := newKeyServer(t, jwk(t, "1", ecKey(t).Public()))
	v := newVerifier(t, token.Config{External: []token.External{external(s)}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	deadline := time.Now().Add(30 * time.Second)
	for v.Ready() != nil {
		if time.Now().After(deadline) {
			t.Fatal("keys were never fetched")
		}
		<-time.After(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClaimsMapToTheHighestRole(t *testing.T) {
	key := ecKey(t)
	s := newKeyServer(t, jwk(t, "1", key.Public()))
	groups := map[string]token.Role{"fleet-ops": token.Operator, "fleet-root": token.Admin}
	for _, test := range []struct {
		name   string
		claim  string
		roles  map[string]token.Role
		claims jwt.MapClaims
		want   token.Role // empty: refused
	}{
		{"a string", "", nil, ssoClaims("admin"), token.Admin},
		{"a list", "", nil, ssoClaims([]string{"viewer", "operator", "other"}), token.Operator},
		{"translated", "", groups, ssoClaims([]string{"fleet-ops", "staff"}), token.Operator},
		{"not translated", "", groups, ssoClaims([]string{"admin"}), ""},
		{"a path", "realm_access.roles", nil, func() jwt.MapClaims {
			c := ssoClaims(nil)
			c["realm_access"] = map[string]any{"roles": []string{"viewer"}}
			return c
		}(), token.Viewer},
		{"a name with dots", "https://example.org/roles", nil, func() jwt.MapClaims {
			c := ssoClaims(nil)
			c["https://example.org/roles"] = "viewer"
			return c
		}(), token.Viewer},
		{"a number", "", nil, ssoClaims(3), ""},
		{"a list with a number", "", nil, ssoClaims([]any{3, "viewer"}), token.Viewer},
		{"no claim", "other.path", nil, ssoClaims("admin"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := external(s)
			e.RolesClaim, e.Roles = test.claim, test.roles
			v := newVerifier(t, token.Config{External: []token.External{e}})
			p, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodES256, key, "1", test.claims))
			if p.Role != test.want || (test.want == "") != errors.Is(err, token.ErrRole) {
				t.Errorf("got %q, %v, want %q", p.Role, err, test.want)
			}
		})
	}
}

func TestConfigurationRefusals(t *testing.T) {
	key := newKey(t).Public()
	ok := token.External{Issuer: sso, JWKSURL: "https://sso.example.org/keys"}
	change := func(f func(*token.External)) []token.External {
		e := ok
		f(&e)
		return []token.External{e}
	}
	for name, c := range map[string]token.Config{
		"nobody to believe":  {},
		"short key":          {Keys: []ed25519.PublicKey{key[:5]}},
		"huge leeway":        {Keys: []ed25519.PublicKey{key}, Leeway: time.Hour},
		"URL of a file":      {External: change(func(e *token.External) { e.JWKSURL = "file:///etc/passwd" })},
		"no URL":             {External: change(func(e *token.External) { e.JWKSURL = "" })},
		"no issuer":          {External: change(func(e *token.External) { e.Issuer = "" })},
		"own issuer's name":  {External: change(func(e *token.External) { e.Issuer = own })},
		"unknown role":       {External: change(func(e *token.External) { e.Roles = map[string]token.Role{"x": "root"} })},
		"the same one twice": {External: []token.External{ok, ok}},
	} {
		c.Issuer, c.Audience = own, audience
		if _, err := token.NewVerifier(c); !errors.Is(err, token.ErrConfig) {
			t.Errorf("%s: got %v, want %v", name, err, token.ErrConfig)
		}
	}
	if _, err := token.NewVerifier(token.Config{Issuer: own, Keys: []ed25519.PublicKey{key}}); !errors.Is(err, token.ErrConfig) {
		t.Errorf("no audience: got %v", err)
	}
}

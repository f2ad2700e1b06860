package token_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"groundswell/certs"
	"groundswell/certs/token"
)

const (
	own      = "groundswell"
	audience = "fleet.example.org"
)

var now = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func must[V any](t testing.TB) func(v V, err error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newKey(t testing.TB) *token.Key {
	t.Helper()
	return must[*token.Key](t)(token.GenerateKey())
}

func newVerifier(t testing.TB, c token.Config) *token.Verifier {
	t.Helper()
	c.Issuer, c.Audience = own, audience
	if c.Now == nil {
		c.Now = func() time.Time { return now }
	}
	return must[*token.Verifier](t)(token.NewVerifier(c))
}

// claims of a good token; a test spoils one.
func claims() jwt.MapClaims {
	return jwt.MapClaims{
		"iss": own, "aud": audience, "sub": "alice", "role": "operator",
		"exp": now.Add(time.Hour).Unix(), "nbf": now.Unix(), "iat": now.Unix(),
	}
}

func with(name string, value any) jwt.MapClaims {
	c := claims()
	if c[name] = value; value == nil {
		delete(c, name)
	}
	return c
}

func sign(t testing.TB, method jwt.SigningMethod, key any, kid any, c jwt.Claims) string {
	t.Helper()
	tok := jwt.NewWithClaims(method, c)
	if kid != nil {
		tok.Header["kid"] = kid
	}
	return must[string](t)(tok.SignedString(key))
}

func TestOwnTokenGivesItsRole(t *testing.T) {
	key, older := newKey(t), newKey(t)
	v := newVerifier(t, token.Config{Keys: []ed25519.PublicKey{older.Public(), key.Public()}})
	for _, k := range []*token.Key{key, older} {
		raw := must[string](t)(token.NewIssuer(k, own, audience).Sign("alice", token.Operator, now, time.Hour))
		p, err := v.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		if p.Name != "alice" || p.Role != token.Operator || p.Issuer != own || p.TokenID == "" || !p.Expires.Equal(now.Add(time.Hour)) {
			t.Errorf("got %+v", p)
		}
	}
}

// attacker signs with a private key of its own under a key id that is known.
func TestTokenRefusals(t *testing.T) {
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	public := private.Public().(ed25519.PublicKey)
	_, attacker, _ := ed25519.GenerateKey(rand.Reader)
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	kid := token.KeyID(public)
	good := sign(t, jwt.SigningMethodEdDSA, private, kid, claims())
	crit := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims())
	crit.Header["kid"], crit.Header["crit"] = kid, []string{"b64"}
	parts := strings.Split(good, ".")

	v := newVerifier(t, token.Config{Keys: []ed25519.PublicKey{public}, Leeway: 30 * time.Second})
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	own := func(c jwt.Claims) string { return sign(t, jwt.SigningMethodEdDSA, private, kid, c) }
	for _, test := range []struct {
		name string
		raw  string
		want error
	}{
		{"nothing", "", token.ErrMalformed},
		{"no token", "x.y.z", token.ErrMalformed},
		{"too large", good + strings.Repeat("A", token.MaxToken), token.ErrMalformed},
		{"null claims", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte("null")) + "." + parts[2], token.ErrIssuer},
		{"alg none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid, claims()), token.ErrAlgorithm},
		{"alg none, kept signature", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"`+kid+`"}`)) + "." + parts[1] + "." + parts[2], token.ErrAlgorithm},
		{"HS256 with the public key as secret", sign(t, jwt.SigningMethodHS256, []byte(public), kid, claims()), token.ErrAlgorithm},
		{"RS256 for the own issuer", sign(t, jwt.SigningMethodRS256, rsaKey, kid, claims()), token.ErrAlgorithm},
		{"alg unknown", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"XX"}`)) + "." + parts[1] + "." + parts[2], token.ErrAlgorithm},
		{"alg absent", base64.RawURLEncoding.EncodeToString([]byte(`{}`)) + "." + parts[1] + "." + parts[2], token.ErrAlgorithm},
		{"critical extension", must[string](t)(crit.SignedString(private)), token.ErrMalformed},
		{"another's key", sign(t, jwt.SigningMethodEdDSA, attacker, kid, claims()), token.ErrSignature},
		{"another's key with its own id", sign(t, jwt.SigningMethodEdDSA, attacker, token.KeyID(attacker.Public().(ed25519.PublicKey)), claims()), token.ErrKey},
		{"no key id", sign(t, jwt.SigningMethodEdDSA, private, nil, claims()), token.ErrKey},
		{"key id is a number", sign(t, jwt.SigningMethodEdDSA, private, 7, claims()), token.ErrKey},
		{"claims of another token", parts[0] + "." + strings.Split(own(with("sub", "bob")), ".")[1] + "." + parts[2], token.ErrSignature},
		{"another issuer", own(with("iss", "elsewhere")), token.ErrIssuer},
		{"no issuer", own(with("iss", nil)), token.ErrIssuer},
		{"another audience", own(with("aud", "elsewhere")), token.ErrAudience},
		{"no audience", own(with("aud", nil)), token.ErrClaims},
		{"expired", own(with("exp", now.Add(-31*time.Second).Unix())), token.ErrExpired},
		{"no expiry", own(with("exp", nil)), token.ErrClaims},
		{"not yet", own(with("nbf", now.Add(31*time.Second).Unix())), token.ErrNotYet},
		{"no subject", own(with("sub", nil)), token.ErrClaims},
		{"line feed in the subject", own(with("sub", "alice\nroot")), token.ErrClaims},
		{"unknown role", own(with("role", "root")), token.ErrRole},
		{"no role", own(with("role", nil)), token.ErrRole},
		{"roles as a list", own(with("role", []string{"admin"})), token.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := v.Verify(t.Context(), test.raw)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if p != (token.Principal{}) {
				t.Errorf("got principal %+v with an error", p)
			}
		})
	}
	for name, c := range map[string]jwt.MapClaims{
		"just expired":      with("exp", now.Add(-29*time.Second).Unix()),
		"just not yet":      with("nbf", now.Add(29*time.Second).Unix()),
		"several audiences": with("aud", []string{"elsewhere", audience}),
	} {
		if _, err := v.Verify(t.Context(), own(c)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHigherRolesIncludeLowerOnes(t *testing.T) {
	all := []token.Role{token.Viewer, token.Operator, token.Admin}
	for i, have := range all {
		for j, need := range all {
			if got, want := have.Includes(need), i >= j; got != want {
				t.Errorf("%s includes %s: got %v", have, need, got)
			}
		}
		if have.Includes("root") || have.Includes("") || token.Role("root").Includes(have) || token.Role("").Includes(have) {
			t.Errorf("%s and an unknown role", have)
		}
	}
}

func TestIssuerRefusesWhatTheVerifierWould(t *testing.T) {
	i := token.NewIssuer(newKey(t), own, audience)
	for name, sign := range map[string]func() (string, error){
		"no name":     func() (string, error) { return i.Sign("", token.Viewer, now, time.Hour) },
		"no role":     func() (string, error) { return i.Sign("alice", "", now, time.Hour) },
		"no lifetime": func() (string, error) { return i.Sign("alice", token.Viewer, now, 0) },
	} {
		if raw, err := sign(); err == nil {
			t.Errorf("%s: got %s", name, raw)
		}
	}
}

func TestTokenKeyFilesKeepTheirSecret(t *testing.T) {
	dir := t.TempDir()
	private, public := filepath.Join(dir, "token.key"), filepath.Join(dir, "token.pub")
	key := newKey(t)
	if err := key.Save(private, public); err != nil {
		t.Fatal(err)
	}
	again := must[*token.Key](t)(token.LoadKey(private))
	if again.ID() != key.ID() || token.KeyID(must[ed25519.PublicKey](t)(token.LoadPublicKey(public))) != key.ID() {
		t.Error("the key changed on disk")
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key)
	for _, printed := range []string{log.String(), fmt.Sprint(key), fmt.Sprintf("%+v %#v %x %d %s", key, key, key, key, key)} {
		if !strings.Contains(printed, key.ID()) || strings.Contains(printed, "private") {
			t.Errorf("printed %s", printed)
		}
	}
	if err := os.Chmod(private, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := token.LoadKey(private); !errors.Is(err, certs.ErrPermissions) {
		t.Errorf("got %v, want %v", err, certs.ErrPermissions)
	}
	if _, err := token.LoadPublicKey(private); !errors.Is(err, token.ErrKeyFile) {
		t.Errorf("got %v, want %v", err, token.ErrKeyFile)
	}
}

func FuzzVerify(f *testing.F) {
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	public := private.Public().(ed25519.PublicKey)
	good := sign(f, jwt.SigningMethodEdDSA, private, token.KeyID(public), claims())
	f.Add(good)
	f.Add("e30.bnVsbA.")
	f.Add("..")
	v := newVerifier(f, token.Config{Keys: []ed25519.PublicKey{public}})
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := v.Verify(context.Background(), raw); err == nil && raw != good {
			t.Errorf("accepted %q", raw)
		}
	})
}

// jwk is a public key as JWKS entry.
func jwk(t testing.TB, kid string, key crypto.PublicKey) json.RawMessage {
	t.Helper()
	k := must[jwkset.JWK](t)(jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid, USE: jwkset.UseSig}}))
	return must[[]byte](t)(json.Marshal(k.Marshal()))
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

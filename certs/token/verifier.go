package token

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/errgroup"
)

// MaxToken is the largest token that is looked at, in bytes.
const MaxToken = 16 << 10

// Config says whose tokens are believed.
type Config struct {
	// Issuer is the platform's own, Audience what every token must be for.
	Issuer   string
	Audience string
	// Keys are the own issuer's. None: there are no own tokens.
	Keys []ed25519.PublicKey
	// External are other issuers. None: only own tokens.
	External []External
	// Leeway is how far clocks may differ, for expiry and not-before. Zero:
	// not at all.
	Leeway time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Client fetches key sets; nil means one with a timeout of 10 s.
	Client *http.Client
	// Log gets refresh failures; nil means nowhere.
	Log *slog.Logger
}

// External is an issuer that publishes its keys.
type External struct {
	Issuer  string // exactly as in the tokens' "iss"
	JWKSURL string // http or https
	// Audience is what its tokens must be for; empty means Config.Audience.
	Audience string
	// RolesClaim is where the roles stand: a name, or a path of names with
	// dots, such as "realm_access.roles"; its value is a string or a list of
	// strings. Empty means "roles".
	RolesClaim string
	// Roles translates; what it does not name gives no role. Nil: the values
	// viewer, operator and admin stand for themselves.
	Roles map[string]Role
	// Refresh is how often the keys are fetched; zero means an hour. A key id
	// not seen before also fetches them, at most every RefreshUnknown (zero
	// means 10 s).
	Refresh        time.Duration
	RefreshUnknown time.Duration
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	config  Config
	own     map[string]ed25519.PublicKey // by key id
	remotes map[string]*remote           // by issuer
}

// NewVerifier checks the configuration (ErrConfig). It does no I/O: key sets
// are fetched by Run, or by the first token that needs them.
func NewVerifier(config Config) (*Verifier, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Client == nil {
		config.Client = &http.Client{Timeout: 10 * time.Second}
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{config: config, own: map[string]ed25519.PublicKey{}, remotes: map[string]*remote{}}
	switch {
	case len(config.Keys)+len(config.External) == 0:
		return nil, fmt.Errorf("%w: neither keys nor external issuers", ErrConfig)
	case config.Issuer == "" || config.Audience == "":
		return nil, fmt.Errorf("%w: issuer and audience must be given", ErrConfig)
	case config.Leeway < 0 || config.Leeway > 5*time.Minute:
		return nil, fmt.Errorf("%w: a leeway of %s", ErrConfig, config.Leeway)
	}
	for _, key := range config.Keys {
		if len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: a key of %d bytes", ErrConfig, len(key))
		}
		v.own[KeyID(key)] = key
	}
	for _, e := range config.External {
		if e.Issuer == config.Issuer || v.remotes[e.Issuer] != nil {
			return nil, fmt.Errorf("%w: issuer %q stands twice", ErrConfig, e.Issuer)
		}
		r, err := newRemote(e, config)
		if err != nil {
			return nil, err
		}
		v.remotes[e.Issuer] = r
	}
	return v, nil
}

// Run keeps the key sets of external issuers fresh until ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, r := range v.remotes {
		g.Go(func() error { return r.run(ctx) })
	}
	return g.Wait()
}

// Ready is ErrUnavailable, naming the issuer, while the keys of an external
// issuer have never been fetched.
func (v *Verifier) Ready() error {
	var errs []error
	for _, r := range v.remotes {
		if r.keys.Load() == nil {
			errs = append(errs, fmt.Errorf("%w: %s", ErrUnavailable, r.Issuer))
		}
	}
	return errors.Join(errs...)
}

// Verify checks a token and returns who it speaks for. ctx bounds a fetch of
// keys, should one be needed.
func (v *Verifier) Verify(ctx context.Context, raw string) (Principal, error) {
	if len(raw) > MaxToken {
		return Principal{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(raw), MaxToken)
	}
	// What an unverified token says is used for one thing: to choose whose
	// rules it must meet.
	var peek jwt.RegisteredClaims
	t, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(raw, &peek)
	if err != nil && (t == nil || !errors.Is(err, jwt.ErrTokenUnverifiable)) { // an unknown algorithm is refused below, by its own name
		return Principal{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if t.Header["crit"] != nil { // RFC 7515 section 4.1.11: we understand no extension
		return Principal{}, fmt.Errorf("%w: critical header extension", ErrMalformed)
	}
	if peek.Issuer == v.config.Issuer {
		return v.verifyOwn(raw, t)
	}
	if r := v.remotes[peek.Issuer]; r != nil {
		return v.verifyRemote(ctx, raw, t, r)
	}
	return Principal{}, fmt.Errorf("%w: %.120q", ErrIssuer, peek.Issuer)
}

func (v *Verifier) verifyOwn(raw string, peek *jwt.Token) (Principal, error) {
	kid, err := header(peek, "EdDSA")
	if err != nil {
		return Principal{}, err
	}
	key, ok := v.own[kid]
	if !ok {
		return Principal{}, fmt.Errorf("%w: %.80q", ErrKey, kid)
	}
	var claims ownClaims
	err = v.parse(raw, &claims, func(*jwt.Token) (any, error) { return key, nil }, v.config.Issuer, v.config.Audience, "EdDSA")
	if err != nil {
		return Principal{}, err
	}
	role, err := ParseRole(claims.Role)
	if err != nil {
		return Principal{}, err
	}
	return principal(claims.RegisteredClaims, role)
}

func (v *Verifier) verifyRemote(ctx context.Context, raw string, peek *jwt.Token, r *remote) (Principal, error) {
	algorithms := []string{"EdDSA", "ES256", "RS256"}
	kid, err := header(peek, algorithms...)
	if err != nil {
		return Principal{}, err
	}
	keys, err := r.keysFor(ctx, kid)
	if err != nil {
		return Principal{}, err
	}
	var claims remoteClaims
	if err := v.parse(raw, &claims, keys.KeyfuncCtx(ctx), r.Issuer, r.Audience, algorithms...); err != nil {
		return Principal{}, err
	}
	role, err := r.role(claims.all)
	if err != nil {
		return Principal{}, err
	}
	return principal(claims.RegisteredClaims, role)
}

// header checks what an unverified header says, before a key is looked for.
func header(t *jwt.Token, algorithms ...string) (kid string, err error) {
	alg, _ := t.Header["alg"].(string) // anything but a string is on no list
	if !slices.Contains(algorithms, alg) {
		return "", fmt.Errorf("%w: %.40q", ErrAlgorithm, alg)
	}
	kid, _ = t.Header["kid"].(string) // anything but a string is no key id
	if kid == "" {
		return "", fmt.Errorf("%w: the token names none", ErrKey)
	}
	return kid, nil
}

func (v *Verifier) parse(raw string, claims jwt.Claims, key jwt.Keyfunc, issuer, audience string, algorithms ...string) error {
	parser := jwt.NewParser(
		jwt.WithValidMethods(algorithms),
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(v.config.Leeway),
		jwt.WithTimeFunc(v.config.Now),
		jwt.WithStrictDecoding(),
	)
	_, err := parser.ParseWithClaims(raw, claims, key)
	return translate(err)
}

// translate turns the library's errors into ours. The library checks the
// signature before the claims, so a claim's error means that the signature is
// good.
func translate(err error) error {
	if err == nil {
		return nil
	}
	for _, pair := range []struct{ from, to error }{
		{jwt.ErrTokenMalformed, ErrMalformed},
		{jwt.ErrTokenUnverifiable, ErrKey},
		{jwt.ErrTokenSignatureInvalid, ErrSignature},
		{jwt.ErrTokenRequiredClaimMissing, ErrClaims},
		{jwt.ErrTokenExpired, ErrExpired},
		{jwt.ErrTokenNotValidYet, ErrNotYet},
		{jwt.ErrTokenInvalidIssuer, ErrIssuer},
		{jwt.ErrTokenInvalidAudience, ErrAudience},
	} {
		if errors.Is(err, pair.from) {
			return fmt.Errorf("%w: %w", pair.to, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

func principal(c jwt.RegisteredClaims, role Role) (Principal, error) {
	if err := checkSubject(c.Subject); err != nil {
		return Principal{}, err
	}
	return Principal{Name: c.Subject, Role: role, Issuer: c.Issuer, TokenID: clip(c.ID), Expires: c.ExpiresAt.Time}, nil
}

func clip(s string) string {
	if len(s) > 120 {
		s = s[:120]
	}
	return strings.ToValidUTF8(s, "")
}

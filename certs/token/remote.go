package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// maxJWKS is the largest key set that is read, in bytes.
const maxJWKS = 1 << 20

// retryJWKS is how long to wait after a fetch that failed.
const retryJWKS = 15 * time.Second

// remote is an external issuer with its keys as last fetched. The library's
// own refreshing client is not used: it reads without bound, and its goroutine
// cannot be waited for.
type remote struct {
	External
	config  Config
	keys    atomic.Pointer[keySet]
	unknown *rate.Limiter
	mu      sync.Mutex // held during a fetch: one at a time
}

// keySet is one fetched key set.
type keySet struct {
	keyfunc.Keyfunc
}

func newRemote(e External, config Config) (*remote, error) {
	u, err := url.Parse(e.JWKSURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%w: JWKS URL %q of issuer %q", ErrConfig, e.JWKSURL, e.Issuer)
	}
	if e.Issuer == "" {
		return nil, fmt.Errorf("%w: an external issuer has no name", ErrConfig)
	}
	for from, to := range e.Roles {
		if _, err := ParseRole(string(to)); err != nil {
			return nil, fmt.Errorf("%w: roles of issuer %q: %q stands for %w", ErrConfig, e.Issuer, from, err)
		}
	}
	if e.Refresh < 0 || e.RefreshUnknown < 0 {
		return nil, fmt.Errorf("%w: negative refresh interval of issuer %q", ErrConfig, e.Issuer)
	}
	if e.Audience == "" {
		e.Audience = config.Audience
	}
	if e.RolesClaim == "" {
		e.RolesClaim = "roles"
	}
	if e.Refresh == 0 {
		e.Refresh = time.Hour
	}
	if e.RefreshUnknown == 0 {
		e.RefreshUnknown = 10 * time.Second
	}
	return &remote{External: e, config: config, unknown: rate.NewLimiter(rate.Every(e.RefreshUnknown), 1)}, nil
}

func (r *remote) run(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := r.Refresh
		if err := r.fetch(ctx); err != nil && ctx.Err() == nil {
			r.config.Log.Warn("key set of token issuer not fetched", "issuer", r.Issuer, "err", err)
			wait = min(wait, retryJWKS)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// keysFor returns the key set, fetched anew when it does not hold kid. Who
// sends made-up key ids cannot order more than one fetch per RefreshUnknown.
func (r *remote) keysFor(ctx context.Context, kid string) (*keySet, error) {
	keys := r.keys.Load()
	if keys.has(ctx, kid) {
		return keys, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Another caller may have fetched it while this one waited.
	if keys = r.keys.Load(); keys.has(ctx, kid) {
		return keys, nil
	}
	if r.unknown.Allow() {
		if err := r.fetchLocked(ctx); err != nil {
			r.config.Log.Warn("key set of token issuer not fetched", "issuer", r.Issuer, "err", err)
		}
	}
	keys = r.keys.Load()
	switch {
	case keys == nil:
		return nil, fmt.Errorf("%w: %s", ErrUnavailable, r.Issuer)
	case !keys.has(ctx, kid):
		return nil, fmt.Errorf("%w: %.80q", ErrKey, kid)
	}
	return keys, nil
}

func (k *keySet) has(ctx context.Context, kid string) bool {
	if k == nil {
		return false
	}
	_, err := k.Storage().KeyRead(ctx, kid)
	return err == nil
}

// fetch replaces the key set. On error the one in use stays.
func (r *remote) fetch(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fetchLocked(ctx)
}

// fetchLocked is fetch; the caller holds mu.
func (r *remote) fetchLocked(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.JWKSURL, nil)
	if err != nil {
		return err
	}
	res, err := r.config.Client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", res.Status)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxJWKS+1))
	if err != nil {
		return err
	}
	if len(data) > maxJWKS {
		return fmt.Errorf("key set of more than %d bytes", maxJWKS)
	}
	keys, err := parseKeySet(data)
	if err != nil {
		return err
	}
	r.keys.Store(keys)
	return nil
}

// parseKeySet reads a JWKS. Keys that cannot serve (unknown types, for
// encryption, without id, symmetric) are left out; a set without any other is
// an error, because it would lock everybody out.
func parseKeySet(data []byte) (*keySet, error) {
	var marshal jwkset.JWKSMarshal
	if err := json.Unmarshal(data, &marshal); err != nil {
		return nil, err
	}
	storage := jwkset.NewMemoryStorage()
	found := false
	var refused error
	for _, m := range marshal.Keys {
		if m.KID == "" || m.KTY == jwkset.KtyOct || m.USE != "" && m.USE != jwkset.UseSig {
			continue
		}
		key, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			refused = errors.Join(refused, fmt.Errorf("key %.80q: %w", m.KID, err))
			continue
		}
		if err := storage.KeyWrite(context.Background(), key); err != nil {
			return nil, err
		}
		found = true
	}
	if !found {
		return nil, errors.Join(fmt.Errorf("key set without any key to verify with"), refused)
	}
	k, err := keyfunc.New(keyfunc.Options{Ctx: context.Background(), Storage: storage})
	if err != nil {
		return nil, err
	}
	return &keySet{Keyfunc: k}, nil
}

// remoteClaims keeps all claims besides the registered ones, to find the roles
// wherever the issuer puts them.
type remoteClaims struct {
	jwt.RegisteredClaims
	all map[string]any
}

// UnmarshalJSON reads the claims twice.
func (c *remoteClaims) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &c.RegisteredClaims); err != nil {
		return err
	}
	return json.Unmarshal(data, &c.all)
}

// role is the highest role that the claims give.
func (r *remote) role(claims map[string]any) (Role, error) {
	best := Role("")
	for _, value := range values(claims, r.RolesClaim) {
		role := Role(value)
		if r.Roles != nil {
			role = r.Roles[value]
		}
		if ranks[role] > ranks[best] {
			best = role
		}
	}
	if best == "" {
		return "", fmt.Errorf("%w: claim %s", ErrRole, r.RolesClaim)
	}
	return best, nil
}

// values reads the strings at a path of claims. A claim whose own name has
// dots (as URLs do) is found by its whole name.
func values(claims map[string]any, path string) []string {
	at, ok := claims[path]
	for !ok {
		name, rest, more := strings.Cut(path, ".")
		if !more {
			return nil
		}
		inner, isObject := claims[name].(map[string]any)
		if !isObject {
			return nil
		}
		claims, path = inner, rest
		at, ok = claims[path]
	}
	switch at := at.(type) {
	case string:
		return []string{at}
	case []any:
		var all []string
		for _, v := range at {
			if s, ok := v.(string); ok {
				all = append(all, s)
			}
		}
		return all
	}
	return nil
}

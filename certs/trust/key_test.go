package trust_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"groundswell/certs"
	"groundswell/certs/trust"
)

func secret(passphrase string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(passphrase), nil }
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	key := must[*trust.Key](t)(trust.GenerateKey())
	plain, sealed := filepath.Join(dir, "plain.key"), filepath.Join(dir, "sealed.key")
	if err := errors.Join(key.Save(plain, nil), key.Save(sealed, []byte("correct horse"))); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{plain, sealed} {
		info := must[os.FileInfo](t)(os.Stat(file))
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s has mode %o, want 600", file, got)
		}
		again := must[*trust.Key](t)(trust.LoadKey(file, secret("correct horse")))
		if again.ID() != key.ID() {
			t.Errorf("%s holds another key", file)
		}
	}
	if _, err := trust.LoadKey(plain, nil); err != nil {
		t.Errorf("a plain key needs no passphrase: %v", err)
	}
	broken := errors.New("no terminal")
	for name, test := range map[string]struct {
		file       string
		passphrase func() ([]byte, error)
		want       error
	}{
		"no passphrase":        {sealed, nil, trust.ErrPassphrase},
		"wrong passphrase":     {sealed, secret("wrong"), trust.ErrPassphrase},
		"empty passphrase":     {sealed, secret(""), trust.ErrPassphrase},
		"no way to ask for it": {sealed, func() ([]byte, error) { return nil, broken }, broken},
		"not there":            {filepath.Join(dir, "none"), nil, os.ErrNotExist},
	} {
		if _, err := trust.LoadKey(test.file, test.passphrase); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	if bytes.Contains(must[[]byte](t)(os.ReadFile(sealed)), must[[]byte](t)(os.ReadFile(plain))[40:80]) {
		t.Error("the sealed file holds the plain key")
	}
	if err := os.Chmod(plain, 0o604); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.LoadKey(plain, nil); !errors.Is(err, certs.ErrPermissions) {
		t.Errorf("got %v, want %v", err, certs.ErrPermissions)
	}
}

func TestPrivateKeyNeverPrintsItself(t *testing.T) {
	key := newKey(t)
	file := filepath.Join(t.TempDir(), "key")
	if err := key.Save(file, nil); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(must[[]byte](t)(os.ReadFile(file)))
	seed := block.Bytes[len(block.Bytes)-32:]
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "keys", []*trust.Key{key})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key, "in", struct{ K *trust.Key }{key})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
		fmt.Fprintf(&log, verb, key)
		fmt.Fprintf(&log, verb, []any{key, struct{ K *trust.Key }{key}})
	}
	if data, err := json.Marshal(struct{ K *trust.Key }{key}); err == nil {
		t.Errorf("a private key went into JSON: %s", data)
	}
	for _, form := range []string{"%x", "%X", "%d", "%v"} {
		if strings.Contains(log.String(), strings.Trim(fmt.Sprintf(form, seed), "[]")) {
			t.Errorf("the key was printed as %s", form)
		}
	}
	if !strings.Contains(log.String(), key.ID()) {
		t.Error("the key is not named")
	}
}

func TestPublicKeyFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.pub")
	public := newKey(t).Public()
	if err := public.Save(file); err != nil {
		t.Fatal(err)
	}
	if again := must[trust.PublicKey](t)(trust.LoadPublicKey(file)); again.ID() != public.ID() {
		t.Error("the key changed on disk")
	}
	for _, text := range []string{
		``, `{}`, `null`, `[]`,
		`{"keytype":"rsa","scheme":"ed25519","keyval":{"public":"00"}}`,
		`{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"00"}}`,
		`{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"` + strings.Repeat("g", 64) + `"}}`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := trust.LoadPublicKey(file); err == nil {
			t.Errorf("accepted %s", text)
		}
	}
	if _, err := json.Marshal(trust.PublicKey{}); err == nil {
		t.Error("no key was written as a key")
	}
}

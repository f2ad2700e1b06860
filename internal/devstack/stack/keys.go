package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"groundswell/certs"
	"groundswell/certs/token"
)

const (
	tokenIssuer   = "groundswell"
	tokenAudience = "fleetd"
)

// key is a path below the key directory.
func (s *Stack) key(elem ...string) string {
	return filepath.Join(append([]string{s.Keys}, elem...)...)
}

// makeKeys makes every key of the fleet, the services' certificates, and a
// token of each role, with the real fleetctl.
func (s *Stack) makeKeys(ctx context.Context) error {
	s.Keys = s.path("keys")
	steps := [][]string{
		{"keys", "init", "--dir", s.Keys, "--trust-domain", s.TrustDomain},
		{"keys", "service", "broker", "--dir", s.Keys, "--out", s.key("services"), "--host", "127.0.0.1", "--host", "localhost"},
		{"keys", "service", "fleetd", "--dir", s.Keys, "--out", s.key("services"), "--host", "127.0.0.1", "--host", "localhost"},
	}
	for _, role := range []token.Role{token.Viewer, token.Operator, token.Admin} {
		steps = append(steps, []string{"keys", "token", string(role), "--role", string(role), "--dir", s.Keys, "--out", s.TokenFile(role)})
	}
	for _, args := range steps {
		if _, err := s.exec(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// TokenFile is the file with the bearer token of a role, valid for a day.
func (s *Stack) TokenFile(role token.Role) string { return s.key(string(role) + ".token") }

// Token signs a bearer token.
func (s *Stack) Token(name string, role token.Role, lifetime time.Duration) (string, error) {
	key, err := token.LoadKey(s.key("offline", "token.key"))
	if err != nil {
		return "", err
	}
	return token.NewIssuer(key, tokenIssuer, tokenAudience).Sign(name, role, time.Now(), lifetime)
}

// CA loads the fleet's certificate authority.
func (s *Stack) CA() (*certs.CA, error) {
	return certs.LoadCA(s.key("public", "ca.crt"), s.key("offline", "ca.key"))
}

// DeviceTLS makes a device's certificate and the client configuration that
// goes with it, for devices that a test plays itself.
func (s *Stack) DeviceTLS(ca *certs.CA, id, model, hardware string) (certs.TLSOptions, error) {
	credential, err := ca.IssueDevice(id, model, hardware, 24*time.Hour)
	return certs.TLSOptions{Credential: credential, Authority: ca.Authority()}, err
}

// Fleetctl runs the real fleetctl as the admin and returns its standard output.
// The error holds what it wrote to standard error; ExitCode tells its code.
func (s *Stack) Fleetctl(ctx context.Context, args ...string) (string, error) {
	return s.exec(ctx, append(args, "--config", s.key("fleetctl.yaml"), "--server", s.APIURL(),
		"--token-file", s.TokenFile(token.Admin))...)
}

func (s *Stack) exec(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.Bins.Fleetctl, args...)
	cmd.Dir = s.Dir
	cmd.Env = []string{"HOME=" + s.Dir, "PATH=" + os.Getenv("PATH")}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("fleetctl %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// ExitCode is the exit code in an error of Fleetctl; 0 for nil, -1 when there is
// none.
func ExitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// Publish signs an artifact with the release keys and publishes it, by
// fleetctl. extra are further flags of "release create".
func (s *Stack) Publish(ctx context.Context, name, version, artifact string, models []string, extra ...string) error {
	args := []string{"release", "create", "--name", name, "--version", version, "--artifact", artifact,
		"--key", s.key("offline", "release-1.key"), "--key", s.key("offline", "release-2.key")}
	for _, m := range models {
		args = append(args, "--model", m)
	}
	_, err := s.Fleetctl(ctx, append(args, extra...)...)
	return err
}

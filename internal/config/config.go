// Package config reads the YAML file of a binary into a struct that already
// holds the defaults, and prints the effective configuration with its secrets
// left out.
//
// Reading is strict: a key that the struct does not have, a key given twice or
// a value of the wrong type is an error that names the file, the line and the
// key. Nothing is defaulted silently. Durations are Go strings ("10m", "1h30m").
// Secrets do not stand in the file: the file names another file that holds the
// secret (SecretFile).
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds a configuration or secret file, in bytes.
const maxFile = 1 << 20

// ErrInvalid is wrapped by every error about the content of a configuration
// file (as opposed to one that cannot be read).
var ErrInvalid = errors.New("invalid configuration")

// Load decodes the YAML file at path over what into (a pointer to a struct)
// already holds. An empty file leaves into as it is.
func Load(path string, into any) error {
	data, err := readBounded(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return Decode(path, data, into)
}

// Decode is Load for bytes that are in memory; name stands for the file's name
// in errors.
func Decode(name string, data []byte, into any) error {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return located(name, err)
	}
	var docs []*ast.DocumentNode
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.NullType && doc.Body.Type() != ast.CommentType {
			docs = append(docs, doc)
		}
	}
	switch len(docs) {
	case 0:
		return nil
	case 1:
	default:
		return fmt.Errorf("%w: %s: more than one YAML document", ErrInvalid, name)
	}
	// A key without a value would overwrite its default with nothing.
	for _, null := range ast.Filter(ast.NullType, docs[0]) {
		return fmt.Errorf("%w: %s:%d: %s has no value", ErrInvalid, name,
			null.GetToken().Position.Line, strings.TrimPrefix(null.GetPath(), "$."))
	}
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict(), yaml.CustomUnmarshaler(decodeDuration))
	if err := dec.Decode(into); err != nil {
		return located(name, err)
	}
	return nil
}

// decodeDuration takes Go duration strings and nothing else: a bare number
// would be nanoseconds to Go and seconds to most people.
func decodeDuration(into *time.Duration, raw []byte) error {
	text := strings.Trim(strings.TrimSpace(string(raw)), `"'`)
	d, err := time.ParseDuration(text)
	if err != nil || (text != "0" && strings.Trim(text, "0123456789") == "") {
		return fmt.Errorf("duration %q is not of the form 90s, 10m or 1h30m", text)
	}
	*into = d
	return nil
}

// located turns the decoder's error into one line: file, line, what is wrong.
func located(name string, err error) error {
	var yamlErr yaml.Error
	if errors.As(err, &yamlErr) {
		if tok := yamlErr.GetToken(); tok != nil && tok.Position != nil {
			return fmt.Errorf("%w: %s:%d: %s", ErrInvalid, name, tok.Position.Line, yamlErr.GetMessage())
		}
		return fmt.Errorf("%w: %s: %s", ErrInvalid, name, yamlErr.GetMessage())
	}
	return fmt.Errorf("%w: %s: %v", ErrInvalid, name, err)
}

// SecretFile is the path of a file that holds a secret (a passphrase, a token,
// a password). The path is printed with the configuration, the content never.
// The zero value means that no file is named.
type SecretFile string

// Read returns the file's content without trailing line ends. An empty path
// or an empty file is an error.
func (f SecretFile) Read() (string, error) {
	if f == "" {
		return "", errors.New("no secret file is configured")
	}
	data, err := readBounded(string(f))
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("secret file %s is empty", string(f))
	}
	return secret, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, nil
}

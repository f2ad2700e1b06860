package config

import (
	"encoding"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"regexp"
	"sort"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// redacted stands in the output where a secret was set.
const redacted = "[redacted]"

// Print writes the effective configuration as YAML. Fields tagged
// `secret:"true"` are replaced when they are set, and so is the password of
// any string that is a URL or a libpq connection string.
func Print(w io.Writer, cfg any) error {
	out, err := yaml.MarshalWithOptions(printable(reflect.ValueOf(cfg)), yaml.IndentSequence(true))
	if err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	_, err = w.Write(out)
	return err
}

// printable rebuilds v out of maps, slices and scalars, without its secrets.
func printable(v reflect.Value) any {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
	}
	if !v.IsValid() {
		return nil
	}
	if d, ok := v.Interface().(time.Duration); ok {
		return d.String()
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			return fmt.Sprintf("[%v]", err)
		}
		return string(text)
	}
	switch v.Kind() {
	case reflect.Struct:
		return printableStruct(v)
	case reflect.Slice, reflect.Array:
		list := make([]any, 0, v.Len())
		for i := range v.Len() {
			list = append(list, printable(v.Index(i)))
		}
		return list
	case reflect.Map:
		m := yaml.MapSlice{}
		for _, key := range v.MapKeys() {
			m = append(m, yaml.MapItem{Key: fmt.Sprint(key.Interface()), Value: printable(v.MapIndex(key))})
		}
		sort.Slice(m, func(i, j int) bool { return m[i].Key.(string) < m[j].Key.(string) })
		return m
	case reflect.String:
		return withoutPassword(v.String())
	}
	return v.Interface()
}

func printableStruct(v reflect.Value) yaml.MapSlice {
	m := yaml.MapSlice{}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if name == "-" {
			continue
		}
		if name == "" {
			name = strings.ToLower(field.Name)
		}
		value := v.Field(i)
		switch {
		case strings.Contains(options, "inline"):
			inner := value
			for inner.Kind() == reflect.Pointer && !inner.IsNil() {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				m = append(m, printableStruct(inner)...)
			}
		case field.Tag.Get("secret") == "true":
			if value.IsZero() {
				m = append(m, yaml.MapItem{Key: name, Value: ""})
			} else {
				m = append(m, yaml.MapItem{Key: name, Value: redacted})
			}
		default:
			m = append(m, yaml.MapItem{Key: name, Value: printable(value)})
		}
	}
	return m
}

var libpqPassword = regexp.MustCompile(`(?i)\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s]+)`)

// withoutPassword hides the password in "scheme://user:secret@host", in
// "?password=secret" and in "host=x password=secret".
func withoutPassword(s string) string {
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil {
			return redacted // cannot tell where the password is
		}
		if _, set := u.User.Password(); set {
			u.User = url.UserPassword(u.User.Username(), "redacted")
			s = u.String()
		}
		return regexp.MustCompile(`(?i)((?:ssl)?password=)[^&]*`).ReplaceAllString(s, "${1}redacted")
	}
	return libpqPassword.ReplaceAllString(s, "${1}"+redacted)
}

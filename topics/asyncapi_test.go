package topics

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"sort"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite asyncapi.yaml from the code")

// channel is one row of the contract, as the AsyncAPI document shows it.
type channel struct {
	kind     Kind
	payload  any
	fleetd   string // what fleetd does: "send" or "receive"
	envelope bool   // the payload stands in director-signed TUF metadata
	summary  string
}

var channels = []channel{
	{KindManifest, Manifest{}, "send", true, "What a cohort is to run. Retained, QoS 1, replaced only by a higher version."},
	{KindAssignment, Assignment{}, "send", true, "Cohorts and policy of one device. Retained, QoS 1, replaced only by a higher version."},
	{KindCommand, Command{}, "send", true, "One request to one device. QoS 1 with message expiry."},
	{KindStatus, Status{}, "receive", false, "A device's step in one deployment. QoS 1, stored before PUBACK."},
	{KindHeartbeat, Heartbeat{}, "receive", false, "A device's telemetry. QoS 1 (0 allowed)."},
	{KindLog, Log{}, "receive", false, "A bounded piece of a device's log. QoS 1."},
	{KindPresence, Presence{}, "receive", false, "The broker's word that a device came or went. QoS 1."},
	{KindRefusal, Refusal{}, "receive", false, "The broker's word that it refused a device something. QoS 1, bounded in rate."},
}

// TestAsyncAPIDescribesTheCode keeps asyncapi.yaml true: channels, sizes,
// fields, types, what may be absent, and the field comments come from the code.
func TestAsyncAPIDescribesTheCode(t *testing.T) {
	got := asyncAPI(t)
	if *update {
		if err := os.WriteFile("asyncapi.yaml", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("asyncapi.yaml is not what the code says; run: go test ./topics -run AsyncAPI -update")
	}
	for _, kind := range append([]Kind{KindManifest}, DeviceKinds...) {
		if !strings.Contains(string(got), "address: "+address(kind)+"\n") {
			t.Errorf("no channel for %s", kind)
		}
	}
}

func address(k Kind) string {
	id := "{device}"
	if k == KindManifest {
		id = "{cohort}"
	}
	return Name{k, id}.String()
}

func asyncAPI(t *testing.T) []byte {
	docs := fieldComments(t)
	var b bytes.Buffer
	p := func(indent int, format string, args ...any) {
		fmt.Fprintf(&b, strings.Repeat("  ", indent)+format+"\n", args...)
	}
	p(0, "# Written by `go test ./topics -run AsyncAPI -update`; a test compares it with the code.")
	p(0, "asyncapi: 3.0.0")
	p(0, "info:")
	p(1, "title: Groundswell wire contract")
	p(1, "version: 1.%d.0", Schema)
	p(1, "description: %s", quote("Topics between devices, broker and fleetd, over MQTT 5 (3.1.1 for devices that have no other) with mutual TLS. The contract only grows: unknown fields are ignored, a higher schema is refused."))
	p(0, "defaultContentType: application/json")
	p(0, "channels:")
	for _, c := range channels {
		p(1, "%s:", c.kind)
		p(2, "address: %s", address(c.kind))
		p(2, "description: %s", quote(c.summary))
		p(2, "parameters:")
		if c.kind == KindManifest {
			p(3, "cohort:")
		} else {
			p(3, "device:")
		}
		p(4, "description: %s", quote("matches "+idPattern))
		p(2, "messages:")
		p(3, "%s: {$ref: '#/components/messages/%s'}", c.kind, c.kind)
	}
	p(0, "operations:")
	for _, c := range channels {
		p(1, "%s:", c.kind)
		p(2, "action: %s", c.fleetd)
		p(2, "channel: {$ref: '#/channels/%s'}", c.kind)
		p(2, "bindings: {mqtt: {qos: 1, retain: %v}}", c.kind.Retained())
	}
	p(0, "components:")
	p(1, "messages:")
	schemas := map[string]reflect.Type{}
	for _, c := range channels {
		typ := reflect.TypeOf(c.payload)
		p(2, "%s:", c.kind)
		p(3, "x-max-bytes: %d", MaxPayload(c.kind))
		if c.envelope {
			p(3, "x-envelope: %s", quote("TUF targets metadata signed by the director; the payload stands under signed.groundswell"))
		}
		p(3, "payload: {$ref: '#/components/schemas/%s'}", typ.Name())
		collect(typ, schemas)
	}
	p(1, "schemas:")
	names := make([]string, 0, len(schemas))
	for name := range schemas {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		typ := schemas[name]
		p(2, "%s:", name)
		p(3, "type: object")
		if d := docs[name]; d != "" {
			p(3, "description: %s", quote(d))
		}
		var required []string
		p(3, "properties:")
		for i := range typ.NumField() {
			field := typ.Field(i)
			key, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			if !strings.Contains(options, "omitempty") {
				required = append(required, key)
			}
			p(4, "%s:", key)
			for _, line := range schemaOf(field.Type) {
				p(5, "%s", line)
			}
			if d := docs[name+"."+field.Name]; d != "" {
				p(5, "description: %s", quote(d))
			}
		}
		p(3, "required: [%s]", strings.Join(required, ", "))
	}
	return b.Bytes()
}

func collect(typ reflect.Type, into map[string]reflect.Type) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		collect(typ.Elem(), into)
	case reflect.Struct:
		if typ == reflect.TypeOf(time.Time{}) {
			return
		}
		into[typ.Name()] = typ
		for i := range typ.NumField() {
			collect(typ.Field(i).Type, into)
		}
	}
}

func schemaOf(typ reflect.Type) []string {
	switch typ.Kind() {
	case reflect.Pointer:
		return schemaOf(typ.Elem())
	case reflect.Slice:
		return []string{"type: array", "items: {" + strings.Join(schemaOf(typ.Elem()), ", ") + "}"}
	case reflect.Map:
		return []string{"type: object", "additionalProperties: {" + strings.Join(schemaOf(typ.Elem()), ", ") + "}"}
	case reflect.Struct:
		if typ == reflect.TypeOf(time.Time{}) {
			return []string{"type: string", "format: date-time"}
		}
		return []string{"$ref: '#/components/schemas/" + typ.Name() + "'"}
	case reflect.String:
		return []string{"type: string"}
	case reflect.Bool:
		return []string{"type: boolean"}
	case reflect.Float64:
		return []string{"type: number"}
	}
	return []string{"type: integer"}
}

// fieldComments reads the comments of types ("Status") and fields
// ("Status.From") out of the package's source.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			for _, spec := range gen.Specs {
				typ := spec.(*ast.TypeSpec)
				out[typ.Name.Name] = join(gen.Doc, typ.Doc)
				if s, ok := typ.Type.(*ast.StructType); ok {
					for _, field := range s.Fields.List {
						for _, name := range field.Names {
							out[typ.Name.Name+"."+name.Name] = join(field.Doc, field.Comment)
						}
					}
				}
			}
		}
	}
	return out
}

func join(groups ...*ast.CommentGroup) string {
	var parts []string
	for _, g := range groups {
		if text := strings.Join(strings.Fields(g.Text()), " "); text != "" {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, " ")
}

// quote writes a YAML double-quoted scalar, of which JSON strings are a subset.
func quote(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return strings.TrimSpace(b.String())
}

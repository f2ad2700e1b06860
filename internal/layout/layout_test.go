package layout

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"groundswell/internal/devstack"
)

const module = "groundswell/"

// importers lists for each third-party library (by import path prefix) the
// packages that may import it. One package translates its types and errors;
// the few with two say why.
var importers = map[string][]string{
	"github.com/alecthomas/kong":               {"internal/cli/tool"}, // which the agent does without
	"github.com/goccy/go-yaml":                 {"internal/config"},
	"github.com/prometheus/":                   {"internal/ops"},
	"github.com/eclipse/paho.golang":           {"internal/mqttclient", "internal/mqttpeer"}, // the other side, for tests
	"github.com/theupdateframework/go-tuf":     {"certs/trust"},
	"github.com/sigstore/sigstore":             {"certs/trust"}, // go-tuf's signers
	"github.com/secure-systems-lab/":           {"certs/trust"}, // go-tuf's JSON
	"github.com/golang-jwt/jwt":                {"certs/token"},
	"github.com/MicahParks/":                   {"certs/token"},
	"github.com/jackc/pgx":                     {"fleetd/store", "migrations"}, // tern takes a pgx connection
	"github.com/jackc/tern":                    {"migrations"},
	"github.com/influxdata/influxdb-client-go": {"fleetd/ingest/influx"},
	"github.com/Masterminds/semver":            {"topics"},
	"k8s.io/apimachinery":                      {"fleetd/fleet"},
	"github.com/danielgtaylor/huma":            {"fleetd/api"},
	"github.com/nats-io/":                      {"broker/cluster", "internal/benchbroker/plainnats"}, // what it is compared with
	"github.com/mochi-mqtt/":                   {"broker/mqtt", "internal/benchbroker/plainmochi"},   // the same
	"github.com/gorilla/websocket":             {"broker/mqtt"},
	"github.com/pires/go-proxyproto":           {"broker/mqtt"},
	"github.com/google/uuid":                   {"fleetd/fleet"},
	"github.com/klauspost/compress":            {"internal/block", "internal/delta"}, // packed blocks; segments
	"github.com/PlakarKorp/":                   {"internal/block"},
	"gocloud.dev":                              {"fleetd/artifact/bucket"},
	"github.com/aws/":                          {"fleetd/artifact/bucket"}, // the S3 client below gocloud.dev
	"github.com/coreos/go-systemd":             {"agent/watchdog"},
	"github.com/godbus/dbus":                   {"agent/rauc"},
	"github.com/google/go-cmp":                 {},  // tests only
	"pgregory.net/rapid":                       {},  // tests only
	"golang.org/x/":                            nil, // anywhere
}

// testOnly may be imported by the tests of any package.
var testOnly = []string{"github.com/google/go-cmp", "pgregory.net/rapid"}

// notLinked must not be in the agent, directly or through others.
var notLinked = []string{
	"github.com/jackc/pgx", "github.com/influxdata/", "github.com/nats-io/", "github.com/mochi-mqtt/", "github.com/alecthomas/kong",
	module + "broker", module + "fleetd", module + "migrations", module + "internal/expand/find",
}

// pure packages decide; they import no driver, no network, no file system.
var pure = []string{"topics", "fleetd/fleet", "broker/session", "agent/update"}

var impure = []string{
	"os", "os/exec", "os/signal", "io/ioutil", "net", "net/http", "syscall", "database/sql",
	"golang.org/x/sys", "golang.org/x/net", module + "internal/",
}

type pkg struct {
	ImportPath, Name, Doc              string
	Imports, TestImports, XTestImports []string
}

func (p pkg) path() string { return strings.TrimPrefix(p.ImportPath, module) }

func list(t *testing.T) []pkg {
	t.Helper()
	if err := devstack.DependOnSources("../.."); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		if p.path() != "internal/deps" { // scaffolding: keeps versions in go.mod until their importers exist
			pkgs = append(pkgs, p)
		}
	}
}

// under reports whether the import is the prefix's package or below it.
func under(imp, prefix string) bool {
	return imp == prefix || strings.HasPrefix(imp, strings.TrimSuffix(prefix, "/")+"/")
}

func anyUnder(imp string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return under(imp, prefix) })
}

func thirdParty(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return strings.Contains(first, ".")
}

func TestEachLibraryHasItsImporter(t *testing.T) {
	check := func(p pkg, imp string, isTest bool) {
		if !thirdParty(imp) || isTest && anyUnder(imp, testOnly) {
			return
		}
		for library, allowed := range importers {
			if !under(imp, library) {
				continue
			}
			if allowed != nil && !slices.Contains(allowed, p.path()) {
				t.Errorf("%s imports %s, which belongs to %v", p.path(), imp, allowed)
			}
			return
		}
		t.Errorf("%s imports %s, a library without an entry here", p.path(), imp)
	}
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			check(p, imp, false)
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			check(p, imp, true)
		}
	}
}

func TestImportsPointOneWay(t *testing.T) {
	// may lists what each part may import of the others; the first entry that
	// fits a package's path counts.
	may := []struct {
		part    string
		allowed []string
	}{
		{"topics", []string{"topics"}},
		{"certs", []string{"topics", "certs"}},
		{"migrations", []string{"migrations"}},
		{"fleetd/fleetctl", []string{"topics", "certs", "internal", "fleetd/fleetctl"}}, // REST is its only way in
		{"fleetd", []string{"topics", "certs", "internal", "migrations", "fleetd"}},
		{"broker", []string{"topics", "certs", "internal", "broker"}},
		{"agent", []string{"topics", "certs", "internal", "agent"}},
		{"internal/herd", []string{"topics", "certs", "internal", "agent", "fleetd"}}, // both sides of a download
		{"internal", []string{"topics", "certs", "internal"}},
	}
	for _, p := range list(t) {
		for _, rule := range may {
			if !under(p.path(), rule.part) {
				continue
			}
			for _, imp := range p.Imports {
				if own, ok := strings.CutPrefix(imp, module); ok && !anyUnder(own, rule.allowed) {
					t.Errorf("%s imports %s: %s may import %v only", p.path(), own, rule.part, rule.allowed)
				}
			}
			// Tests may use the machinery of internal, but no other binary.
			for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
				own, ok := strings.CutPrefix(imp, module)
				if ok && !anyUnder(own, append([]string{rule.part, "internal"}, rule.allowed...)) {
					t.Errorf("a test of %s imports %s", p.path(), own)
				}
			}
			break
		}
	}
}

func TestPurePackagesTouchNothing(t *testing.T) {
	for _, p := range list(t) {
		if !slices.Contains(pure, p.path()) {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(impure, imp) || strings.Contains(imp, "/") && anyUnder(imp, impure[7:]) {
				t.Errorf("%s imports %s", p.path(), imp)
			}
		}
	}
}

func TestAgentLinksNoServer(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./agent/...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for imp := range strings.Lines(string(out)) {
		if imp = strings.TrimSpace(imp); anyUnder(imp, notLinked) {
			t.Errorf("the agent links %s", imp)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.path())
		}
	}
}

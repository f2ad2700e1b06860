package api

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"groundswell/certs/token"
	"groundswell/fleetd/artifact"
	"groundswell/fleetd/store"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// Tokens checks bearer tokens.
type Tokens interface {
	Verify(ctx context.Context, raw string) (token.Principal, error)
}

// Config is what a Server is made of. All but TLS, Prices, Packed and IndexDelta is required.
type Config struct {
	// Listen is host:port; port 0 takes a free one.
	Listen string
	// TLS nil serves plain HTTP, for tests and behind a proxy on the same host.
	TLS       *tls.Config
	Store     *store.Store
	Blobs     *artifact.Blobs
	Catalogue *artifact.Catalogue
	Tokens    Tokens
	Prices    Prices
	// Packed says how many bytes an artifact has when its blocks are fetched packed.
	// Nil, or false: not known.
	Packed func(ctx context.Context, sha256 string) (int64, bool)
	// IndexDelta says how many bytes the delta has that makes the block index with digest
	// new of that with digest old. Nil, or false: there is none, or it is not known.
	IndexDelta func(ctx context.Context, new, old string) (int64, bool)
	// Version is what the OpenAPI document says.
	Version string
	Metrics *ops.Registry
	Log     *slog.Logger
}

// Server is the REST interface.
type Server struct {
	Config
	log      *slog.Logger
	mux      *http.ServeMux
	api      huma.API
	listener net.Listener
	seconds  ops.HistogramVec
}

const (
	// handlingTimeout bounds a request, its reading and its answer, unless an
	// operation asks for more.
	handlingTimeout = time.Minute
	// slowTimeout is for the few operations that touch many rows.
	slowTimeout = 5 * time.Minute

	maxBody    = 1 << 20
	maxImport  = 8 << 20
	maxTargets = 12 << 20 // trust.MaxTargets in base64
)

// New makes the server. It does no I/O.
func New(cfg Config) *Server {
	s := &Server{Config: cfg, log: cfg.Log, mux: http.NewServeMux()}
	s.seconds = cfg.Metrics.NewHistogramVec("groundswell_api_request_seconds", "Time to answer a request of the REST interface.", nil, "operation", "status")
	config := huma.DefaultConfig("Groundswell fleetd", cfg.Version)
	config.Info.Description = "Rolls firmware out to fleets of devices, in waves."
	config.CreateHooks = nil // no $schema in bodies
	config.SchemasPath, config.DocsPath = "", ""
	config.RejectUnknownQueryParameters = true
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", BearerFormat: "JWT"},
	}
	s.api = humago.New(s.mux, config)
	s.registerDevices()
	s.registerCohorts()
	s.registerReleases()
	s.registerRollouts()
	s.registerAlerts()
	s.registerAudit()
	s.registerDocs()
	return s
}

// Listen binds the address.
func (s *Server) Listen() error {
	l, err := net.Listen("tcp", s.Config.Listen)
	if err != nil {
		return fmt.Errorf("api listener: %w", err)
	}
	s.listener = l
	return nil
}

// Addr is the bound host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close lets go of the address of a server that does not run after all.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends, then lets running requests finish for a moment.
// Listen comes first.
func (s *Server) Run(ctx context.Context) error {
	return Serve(ctx, s.listener, s.Config.TLS, s.Handler(), s.log)
}

// Serve runs an HTTP server until ctx ends. When it returns, no handler runs.
func Serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config, handler http.Handler, log *slog.Logger) error {
	base, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	server := &http.Server{
		Handler:           handler,
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(base, 5*time.Second)
		defer cancel()
		if server.Shutdown(grace) == nil {
			return
		}
		abort()            // whoever still waits for the database
		_ = server.Close() // and whoever still downloads
	})
	var err error
	if tlsConfig == nil {
		err = server.Serve(l)
	} else {
		err = server.ServeTLS(l, "", "")
	}
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("http server: %w", err)
}

// Handler is the whole interface.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

type contextKey int

const (
	keyRequestID contextKey = iota
	keyPrincipal
	keyOperation
)

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(keyRequestID).(string) // absent outside of a request
	return id
}

// newRequestID takes the caller's id if it can stand in a log line and in the
// database, else makes one.
func newRequestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); topics.ValidID(id) {
		return id
	}
	var random [10]byte
	_, _ = rand.Read(random[:]) // crypto/rand never fails: it ends the program
	return strings.ToLower(base32.StdEncoding.EncodeToString(random[:]))
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	id := newRequestID(r)
	h := w.Header()
	h.Set("X-Request-Id", id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	began := time.Now()
	operation := "none" // the middleware of an operation fills it in
	answer := &recorder{ResponseWriter: w}
	ctx := context.WithValue(r.Context(), keyRequestID, id)
	ctx = context.WithValue(ctx, keyOperation, &operation)
	r = r.WithContext(ctx)
	// The writer of an upload is extended as it progresses.
	_ = http.NewResponseController(w).SetWriteDeadline(began.Add(handlingTimeout + 10*time.Second)) // not supported in a test without a connection
	defer func() {
		if failure := recover(); failure != nil {
			if failure == http.ErrAbortHandler {
				panic(failure)
			}
			s.log.Error("handler panicked", "operation", operation, "request", id, "err", fmt.Sprint(failure), "stack", string(debug.Stack()))
			if answer.status == 0 {
				p := problem(http.StatusInternalServerError, "internal error")
				p.Instance = id
				writeProblem(answer, p, s.log)
			}
		}
		took := time.Since(began)
		s.seconds.With(operation, fmt.Sprint(answer.status)).Observe(took.Seconds())
		s.log.Debug("request", "request", id, "method", r.Method, "path", r.URL.Path, "operation", operation, "status", answer.status, "ms", took.Milliseconds())
	}()
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.unmatched(answer, r, id)
		return
	}
	s.mux.ServeHTTP(answer, r)
}

// unmatched answers as the mux would (404, or 405 with Allow), as a problem.
func (s *Server) unmatched(w http.ResponseWriter, r *http.Request, id string) {
	would := &discard{header: http.Header{}}
	s.mux.ServeHTTP(would, r)
	p := problem(http.StatusNotFound, "there is nothing at this path")
	switch {
	case would.status == http.StatusMethodNotAllowed:
		w.Header().Set("Allow", would.header.Get("Allow"))
		p = problem(http.StatusMethodNotAllowed, "the path allows "+would.header.Get("Allow"))
	case would.status/100 == 3:
		p.Detail = "there is nothing at this path; there is at " + would.header.Get("Location")
	}
	p.Instance = id
	writeProblem(w, p, s.log)
}

// recorder remembers the status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(data []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(data)
}

// Unwrap is what http.ResponseController looks for.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header            { return d.header }
func (d *discard) WriteHeader(status int)         { d.status = status }
func (d *discard) Write(data []byte) (int, error) { return len(data), nil }

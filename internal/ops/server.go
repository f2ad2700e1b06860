package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Config is the `ops` section of every binary's configuration file.
type Config struct {
	// Listen is host:port; port 0 takes a free one. Empty means no ops server.
	Listen string `yaml:"listen"`
	// PProf serves Go's profiles below /debug/pprof/. They show memory, so off
	// unless asked for. Programs built with the tag noprofiles, as agents are, have none
	// and say so.
	PProf bool `yaml:"pprof"`
}

// checkTimeout bounds one readiness check; a check that hangs counts as missing.
const checkTimeout = 3 * time.Second

// Server answers /metrics, /healthz and /readyz.
type Server struct {
	cfg      Config
	reg      *Registry
	log      *slog.Logger
	listener net.Listener

	mu     sync.Mutex // guards checks
	checks []check
}

type check struct {
	name string
	fn   func(context.Context) error
}

// NewServer returns a server that has not bound its address yet.
func NewServer(cfg Config, reg *Registry, log *slog.Logger) *Server {
	return &Server{cfg: cfg, reg: reg, log: log}
}

// Ready adds a named condition for readiness. Checks run on every request of
// /readyz, all at once, each for at most 3 s.
func (s *Server) Ready(name string, fn func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, check{name, fn})
}

// Listen binds the address. With an empty Config.Listen it does nothing.
func (s *Server) Listen() error {
	if s.cfg.Listen == "" {
		return nil
	}
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("ops listener: %w", err)
	}
	s.listener = l
	return nil
}

// Addr is the bound host:port, or "" without a listener.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Run serves until ctx ends. It calls Listen if that was not done. Without an
// address it waits for ctx.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	if s.listener == nil {
		<-ctx.Done()
		return nil
	}
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close() // whoever still reads a profile is cut off
		}
	})
	err := server.Serve(s.listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("ops server: %w", err)
}

// Handler is the server's routes, for tests and for processes that mount them.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.reg.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n")) // the reader is gone if this fails
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.cfg.PProf {
		profiles(mux, s.log)
	}
	return mux
}

// Missing is one unmet condition in the body of a 503 from /readyz.
type Missing struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// Missing runs every check and returns those that failed, in the order in
// which they were added. Empty means ready.
func (s *Server) Missing(ctx context.Context) []Missing {
	s.mu.Lock()
	checks := append([]check(nil), s.checks...)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	failures := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { failures[i] = c.fn(ctx) })
	}
	wg.Wait()
	missing := []Missing{}
	for i, err := range failures {
		if err != nil {
			missing = append(missing, Missing{checks[i].name, err.Error()})
		}
	}
	return missing
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	missing := s.Missing(r.Context())
	w.Header().Set("Content-Type", "application/json")
	if len(missing) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(struct {
		Ready   bool      `json:"ready"`
		Missing []Missing `json:"missing"`
	}{len(missing) == 0, missing}) // the reader is gone if this fails
}

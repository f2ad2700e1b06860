package self

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Messages of sd_notify(3).
const (
	stopping = "STOPPING=1"
	feeding  = "WATCHDOG=1"
)

// maxSign is the longest message that is read, in bytes; the rest of a longer one is
// lost.
const maxSign = 4 << 10

// signs is the socket that an agent on trial gives its signs of life to. All but that it
// stops is passed on to whoever watches the launcher: it comes from the main process
// then, as systemd wants it, and that one stops only if the launcher does.
type signs struct {
	path   string
	heard  chan struct{} // gets a value for one message, or several
	socket *net.UnixConn
	remove func()
	above  *net.UnixConn // nil: nobody watches
	log    *slog.Logger
	done   sync.WaitGroup
}

// listen opens the socket in dir, or where that has too long a name for one, in a
// directory for temporary files; above is the NOTIFY_SOCKET of the launcher, may be empty.
func listen(dir, above string, log *slog.Logger) (*signs, error) {
	s := &signs{heard: make(chan struct{}, 1), log: log, remove: func() {}}
	bind := func(path string) (err error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		s.path = path
		s.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		return err
	}
	if err := bind(filepath.Join(dir, "notify")); err != nil {
		temporary, errTemp := os.MkdirTemp("", "groundswell-")
		if errTemp != nil {
			return nil, fmt.Errorf("listen for signs of life: %w", errors.Join(err, errTemp))
		}
		s.remove = func() { _ = os.RemoveAll(temporary) } // it is temporary
		if err := bind(filepath.Join(temporary, "notify")); err != nil {
			s.remove()
			return nil, fmt.Errorf("listen for signs of life: %w", err)
		}
	}
	if above != "" {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: above, Net: "unixgram"})
		if err != nil {
			log.Error("signs of life cannot be passed on", "err", err)
		} else {
			s.above = conn
		}
	}
	s.done.Add(1)
	go s.read()
	return s, nil
}

func (s *signs) read() {
	defer s.done.Done()
	buf := make([]byte, maxSign)
	for {
		n, err := s.socket.Read(buf)
		if err != nil {
			return // closed
		}
		select {
		case s.heard <- struct{}{}:
		default: // one is waiting to be seen
		}
		var rest []string
		for line := range strings.SplitSeq(string(buf[:n]), "\n") {
			if line != "" && line != stopping {
				rest = append(rest, line)
			}
		}
		if len(rest) > 0 {
			s.pass(strings.Join(rest, "\n"))
		}
	}
}

// pass tells whoever watches.
func (s *signs) pass(message string) {
	if s.above == nil {
		return
	}
	if _, err := s.above.Write([]byte(message)); err != nil {
		s.log.Warn("a sign of life cannot be passed on", "err", err)
	}
}

// Close closes the socket.
func (s *signs) Close() {
	s.socket.Close()
	s.done.Wait()
	if s.above != nil {
		s.above.Close()
	}
	_ = os.Remove(s.path) // the next one does
	s.remove()
}

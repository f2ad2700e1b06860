package mqtt

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// errNotYet means that the client has sent no more so far. To crypto/tls, which
// asks for Temporary, it is no failure: it goes on where it was.
var errNotYet net.Error = notYet{}

type notYet struct{}

func (notYet) Error() string   { return "nothing more has come" }
func (notYet) Timeout() bool   { return false }
func (notYet) Temporary() bool { return true }

// readSize is how much is read at once.
const readSize = 16 << 10

// spaces are what connections read into. They hold one only while something comes,
// so that idle ones cost nothing for it.
var spaces = sync.Pool{New: func() any { return new([readSize]byte) }}

// wire is the TCP connection below TLS. It begins as any other. Once it is patient,
// who has nothing to read does not wait inside TLS, with all its frames on the
// stack, but in wait, with hardly any: that halves the memory of an idle session.
// Only one goroutine reads.
type wire struct {
	net.Conn
	raw     syscall.RawConn
	patient bool
	came    []byte // read, and not taken yet
	space   *[readSize]byte
	more    bool // there may be more where that came from
	take    func(fd uintptr) bool
	waits   bool  // take, for something to come
	failed  error // of take
}

func newWire(t *net.TCPConn) (*wire, error) {
	raw, err := t.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: t, raw: raw}
	w.take = func(fd uintptr) bool {
		w.failed = w.fill(int(fd))
		return !w.waits || !errors.Is(w.failed, syscall.EAGAIN)
	}
	return w, nil
}

// Read, of a patient wire, returns errNotYet where it would have to wait.
func (w *wire) Read(p []byte) (int, error) {
	if !w.patient {
		return w.Conn.Read(p)
	}
	if len(w.came) == 0 {
		if !w.more {
			return 0, errNotYet
		}
		if err := w.read(false); errors.Is(err, syscall.EAGAIN) {
			w.more = false
			return 0, errNotYet
		} else if err != nil {
			return 0, err
		}
	}
	n := copy(p, w.came)
	w.came = w.came[n:]
	if len(w.came) == 0 {
		w.release()
	}
	return n, nil
}

// wait returns when there is something to read, or an error when nothing will come
// any more or the read deadline has passed.
func (w *wire) wait() error {
	if len(w.came) > 0 || !w.patient {
		return nil
	}
	return w.read(true)
}

func (w *wire) read(waits bool) error {
	w.waits = waits
	if err := w.raw.Read(w.take); err != nil {
		return err
	}
	return w.failed
}

// fill reads what is there, and at most a space full.
func (w *wire) fill(fd int) error {
	w.space = spaces.Get().(*[readSize]byte)
	for {
		n, err := syscall.Read(fd, w.space[:])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case n > 0:
			// What comes after a read that was not full is announced again.
			w.came, w.more = w.space[:n], n == readSize
			return nil
		case err == nil:
			err = io.EOF
		}
		w.release()
		return err
	}
}

func (w *wire) release() {
	spaces.Put(w.space)
	w.space, w.came = nil, nil
}

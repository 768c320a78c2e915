package target

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// briefWait is how long a connection's reader may wait for its socket in the kernel. An initiator that keeps one command in
// flight sends the next one sooner; longer waits are the runtime's poller's, which keeps no thread.
const briefWait = 200 * time.Microsecond

// singles is how many reads in a row must have brought one PDU each before a wait is taken for a brief one.
const singles = 8

// waiters counts the readers that wait in the kernel. Each of them keeps a processor of the Go scheduler meanwhile, so that
// one always stays free.
type waiters struct{ n atomic.Int32 }

func (w *waiters) enter() bool {
	if int(w.n.Add(1)) < runtime.GOMAXPROCS(0) {
		return true
	}
	w.n.Add(-1)
	return false
}

func (w *waiters) leave() { w.n.Add(-1) }

// socket reads from and writes to one connection with as few system calls and changes of threads as it can. One goroutine
// reads, one at a time writes.
type socket struct {
	nc      net.Conn
	raw     syscall.RawConn // nil: not a socket of the kernel
	waiters *waiters
	timeout time.Duration // of one write

	dry     bool // the last read had to wait, and not for long: the next one will, too
	single  int  // reads in a row that brought one PDU each
	in, out []byte
	got     int
	gotErr  error
	put     int
	putErr  error
	receive func(fd uintptr) bool
	send    func(fd uintptr) bool
	events  [1]unix.PollFd
}

func newSocket(nc net.Conn, w *waiters, timeout time.Duration) *socket {
	s := &socket{nc: nc, waiters: w, timeout: timeout}
	if tcp, ok := nc.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			s.raw, s.receive, s.send = raw, s.tryReceive, s.trySend
		}
	}
	return s
}

// Read is net.Conn's. A wait that is expected to be brief is spent in poll(2) on this thread: for the runtime's poller the
// goroutine would be parked, and another thread woken for it.
func (s *socket) Read(b []byte) (int, error) {
	if s.raw == nil || len(b) == 0 {
		return s.nc.Read(b)
	}
	s.in = b
	err := s.raw.Read(s.receive)
	s.in = nil
	switch {
	case err != nil:
		return 0, err
	case s.gotErr != nil:
		return 0, os.NewSyscallError("read", s.gotErr)
	case s.got == 0:
		return 0, io.EOF
	}
	return s.got, nil
}

// tryReceive reads what there is; false: the runtime's poller is to wait. It only learns of what comes after this began, so
// that a read which found nothing has to come first.
func (s *socket) tryReceive(fd uintptr) bool {
	waited := s.dry
	if s.dry {
		s.dry = s.await(fd)
	}
	for {
		s.got, s.gotErr = syscall.Read(int(fd), s.in)
		switch {
		case errors.Is(s.gotErr, unix.EINTR):
		case !errors.Is(s.gotErr, unix.EAGAIN):
			return true
		case waited:
			return false
		default:
			waited, s.dry = true, s.await(fd)
			if !s.dry {
				return false
			}
		}
	}
}

// brought counts the PDUs between two reads.
func (s *socket) brought(pdus int) {
	if pdus > 1 {
		s.single = 0
		return
	}
	s.single++
}

// await waits for something to read, for as long as a brief wait may take. An initiator that keeps many commands in flight is
// better served late, with more of them at once.
func (s *socket) await(fd uintptr) bool {
	if s.single < singles || !s.waiters.enter() {
		return false
	}
	defer s.waiters.leave()
	s.events[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	limit := unix.NsecToTimespec(int64(briefWait))
	n, err := unix.Ppoll(s.events[:], &limit, nil)
	return n > 0 && err == nil
}

// Write is net.Conn's, within the time that one write may take. That is only counted once the socket is full.
func (s *socket) Write(b []byte) (int, error) {
	if s.raw == nil {
		return s.slowly(b)
	}
	s.out = b
	err := s.raw.Write(s.send)
	s.out = nil
	switch {
	case err != nil:
		return 0, err
	case s.putErr != nil:
		return 0, os.NewSyscallError("write", s.putErr)
	case s.put == len(b):
		return s.put, nil
	}
	n, err := s.slowly(b[s.put:])
	return s.put + n, err
}

// trySend writes what the socket takes at once.
func (s *socket) trySend(fd uintptr) bool {
	s.put, s.putErr = syscall.Write(int(fd), s.out)
	if errors.Is(s.putErr, unix.EAGAIN) || errors.Is(s.putErr, unix.EINTR) {
		s.put, s.putErr = 0, nil
	}
	return true
}

func (s *socket) slowly(b []byte) (int, error) {
	if err := s.nc.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return 0, err
	}
	n, err := s.nc.Write(b)
	if err != nil {
		return n, err
	}
	return n, s.nc.SetWriteDeadline(time.Time{}) // else the next attempt would fail by it
}

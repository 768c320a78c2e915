package target

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A socket goes direct after so many waits in a row of at most quickWait, and leaves after one of directWait.
	quickWaits = 64
	quickWait  = time.Millisecond
	directWait = 5 * time.Millisecond
	// directYield is how long the reader of a direct socket keeps its processor at most before it offers it to others. A goroutine that
	// has run for 10 ms in the eyes of Go's scheduler loses its processor in each system call, and its next one is waited for anew.
	directYield = 5 * time.Millisecond
)

// errWriting says that a socket stays as it is, because something is being written.
var errWriting = errors.New("something is being written")

// errDirect says that a socket is direct, and knows no deadlines for reading.
var errDirect = errors.New("a direct socket has no read deadline")

// socket is the network side of a connection. As a rule it is Go's: one thread polls all of them, and wakes a goroutine where
// something came. For one whose initiator waits for each answer before its next command that is most of the way: the poller's thread
// wakes up, and wakes another. So the descriptor of a busy socket is taken out of the poller, and its reader waits in recv(2) itself, as
// long as silence stays short. A thread that waits so has one of Go's processors for up to 10 ms: directs bounds how many do.
//
// Read, settle and the change between the two are the reader's. Everything else may be called from anywhere, but writes one at a time,
// under turn.
type socket struct {
	local, remote net.Addr
	timeout       time.Duration // of a write
	turn          *sync.Mutex   // held while something is written
	directs       *directs

	mu     sync.Mutex // for changes of nc and file; the reader, and who has the turn, need it not to look
	nc     net.Conn
	file   *os.File // the descriptor of a direct socket; then nc is closed
	closed bool

	quick   int       // waits in a row that were short
	yielded time.Time // while direct
}

// directs counts the sockets of a server that are direct: half of Go's processors at most, none where there is one.
type directs struct{ n atomic.Int32 }

func (d *directs) take() bool {
	if int(d.n.Add(1)) <= runtime.GOMAXPROCS(0)/2 {
		return true
	}
	d.n.Add(-1)
	return false
}

func (d *directs) give() { d.n.Add(-1) }

func newSocket(nc net.Conn, timeout time.Duration, turn *sync.Mutex, d *directs) *socket {
	return &socket{local: nc.LocalAddr(), remote: nc.RemoteAddr(), timeout: timeout, turn: turn, directs: d, nc: nc}
}

// settle is told before each wait for a command whether the commands before it were all done at once. While one is with a unit,
// others need the processors.
func (k *socket) settle(idle bool) {
	switch {
	case !idle:
		k.quick = 0
		if k.file != nil {
			k.leave()
		}
	case k.file == nil && k.quick >= quickWaits:
		k.quick = 0
		k.enter()
	}
}

// Read is that of net.Conn.
func (k *socket) Read(b []byte) (int, error) {
	for k.file != nil {
		if now := time.Now(); now.Sub(k.yielded) > directYield {
			k.yielded = now
			runtime.Gosched()
		}
		n, err := k.file.Read(b)
		if n == 0 && k.isClosed() {
			return 0, net.ErrClosed
		}
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		k.leave()
	}
	began := time.Now()
	n, err := k.nc.Read(b)
	if k.quick++; time.Since(began) > quickWait {
		k.quick = 0
	}
	return n, err
}

// Write is that of net.Conn, with the time that a write may take.
func (k *socket) Write(b []byte) (int, error) {
	if k.file != nil {
		n, err := k.file.Write(b)
		if errors.Is(err, unix.EAGAIN) {
			err = os.ErrDeadlineExceeded
		}
		return n, err
	}
	if err := k.nc.SetWriteDeadline(time.Now().Add(k.timeout)); err != nil {
		return 0, err
	}
	return k.nc.Write(b)
}

// enter makes a TCP socket direct, if there is place and nothing is being written.
func (k *socket) enter() {
	tcp, ok := k.nc.(*net.TCPConn)
	if !ok || !k.directs.take() {
		return
	}
	if k.change(func() error { return k.toFile(tcp) }) != nil {
		k.directs.give()
	}
}

// leave gives a direct socket back to the poller. When it cannot, it is tried again after the next wait.
func (k *socket) leave() {
	if k.change(k.toConn) == nil {
		k.directs.give()
	}
}

// change does what puts another descriptor in the place of the one there is.
func (k *socket) change(do func() error) error {
	if !k.turn.TryLock() {
		return errWriting
	}
	defer k.turn.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return net.ErrClosed
	}
	return do()
}

// toFile takes a second descriptor of the connection, which waits by itself, and closes the first one.
func (k *socket) toFile(tcp *net.TCPConn) error {
	fd := -1
	err := control(tcp, func(own int) (err error) {
		fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return err
	}
	wait, patience := unix.NsecToTimeval(int64(directWait)), unix.NsecToTimeval(int64(k.timeout))
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience))
	if err == nil {
		err = unix.SetNonblock(fd, false) // last: it holds for both descriptors
	}
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	k.file = os.NewFile(uintptr(fd), k.remote.String())
	return tcp.Close()
}

// toConn is the way back. The connection is Go's with a descriptor of its own.
func (k *socket) toConn() error {
	nc, err := net.FileConn(k.file)
	if err != nil {
		return err
	}
	err = k.file.Close()
	k.nc, k.file, k.quick = nc, nil, 0
	return err
}

// control calls f with the descriptor of c, which nobody closes meanwhile.
func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// descriptor is what has the descriptor now, nil for what is no TCP connection. Under mu.
func (k *socket) descriptor() syscall.Conn {
	if k.file != nil {
		return k.file
	}
	tcp, _ := k.nc.(*net.TCPConn)
	if tcp == nil {
		return nil
	}
	return tcp
}

// Close ends the socket, and a Read that waits; with reset nothing the kernel holds is sent any more. A second call changes nothing.
func (k *socket) Close(reset bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	k.closed = true
	if c := k.descriptor(); c != nil && reset {
		_ = control(c, func(fd int) error {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
	if k.file == nil {
		_ = k.nc.Close()
		return
	}
	_ = control(k.file, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) }) // closing alone wakes nobody in recv(2)
	_ = k.file.Close()
	k.directs.give()
}

func (k *socket) isClosed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closed
}

// SetReadDeadline is that of net.Conn for a socket that is not direct. A direct one ends no wait by a deadline: errDirect.
func (k *socket) SetReadDeadline(t time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file != nil {
		return errDirect
	}
	return k.nc.SetReadDeadline(t)
}

// closeWrite ends what is sent, and lets the other side send on. It reports whether it could.
func (k *socket) closeWrite() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	tcp, ok := k.nc.(*net.TCPConn)
	return ok && k.file == nil && tcp.CloseWrite() == nil
}

// peerClosed reports whether the other side has closed the connection and nothing it sent is unread.
func (k *socket) peerClosed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.descriptor()
	if c == nil {
		return false
	}
	closed := false
	err := control(c, func(fd int) error {
		var b [1]byte
		n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = n == 0 && err == nil || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		return nil
	})
	return closed || err != nil
}

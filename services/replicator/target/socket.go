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
	// A socket goes direct after busyWaits waits in a row of at most quickWait. Then each longer one counts against slowWait of them;
	// when none is left it goes back.
	busyWaits = 64
	quickWait = time.Millisecond
	slowWait  = 16
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
// wakes up, and wakes another. So the descriptor of a busy socket is taken out of the poller, and its reader waits in read(2) itself, as
// long as silence stays short. A thread that waits so has one of Go's processors for up to 10 ms: directs bounds how many do.
//
// Read, settle and the change between the two are the reader's. Everything else may be called from anywhere, but writes one at a time,
// under turn.
type socket struct {
	local, remote net.Addr
	timeout       time.Duration // of a write
	turn          *sync.Mutex   // held while something is written
	directs       *directs

	mu     sync.Mutex // for changes of nc and direct; the reader, and who has the turn, need it not to look
	nc     net.Conn
	direct *direct // instead of nc, which is closed then
	closed bool

	busy    int       // 0 to busyWaits: waits in a row that were short
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
		k.busy = 0
		if k.direct != nil {
			k.leave()
		}
	case k.direct == nil && k.busy >= busyWaits:
		k.enter()
	}
}

// Read is that of net.Conn.
func (k *socket) Read(b []byte) (int, error) {
	for k.direct != nil {
		n, err := k.readDirect(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		k.leave()
	}
	began := time.Now()
	n, err := k.nc.Read(b)
	if k.busy = min(k.busy+1, busyWaits); time.Since(began) > quickWait {
		k.busy = 0
	}
	return n, err
}

// readDirect reads as Read does, and leaves a socket that is no longer busy.
func (k *socket) readDirect(b []byte) (int, error) {
	began := time.Now()
	if began.Sub(k.yielded) > directYield {
		k.yielded = began
		runtime.Gosched()
	}
	n, err := k.direct.Read(b)
	switch {
	case n == 0 && k.isClosed():
		return 0, net.ErrClosed
	case n == 0:
	case time.Since(began) <= quickWait:
		k.busy = min(k.busy+1, busyWaits)
	default:
		if k.busy -= slowWait; k.busy <= 0 {
			k.leave()
		}
	}
	return n, err
}

// Write is that of net.Conn, with the time that a write may take.
func (k *socket) Write(b []byte) (int, error) {
	deadline := time.Now().Add(k.timeout)
	if k.direct != nil {
		return k.direct.Write(b, deadline)
	}
	if err := k.nc.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	return k.nc.Write(b)
}

// enter makes a TCP socket direct, if there is place and nothing is being written.
func (k *socket) enter() {
	tcp, ok := k.nc.(*net.TCPConn)
	if !ok || !k.directs.take() {
		k.busy = 0
		return
	}
	if k.change(func() (err error) { k.direct, err = newDirect(tcp); return err }) != nil {
		k.busy = 0
		k.directs.give()
	}
}

// leave gives a direct socket back to the poller. When it cannot, it is tried again after the next wait.
func (k *socket) leave() {
	k.busy = 0
	err := k.change(func() error {
		nc, err := k.direct.polled()
		if err == nil {
			k.nc, k.direct = nc, nil
		}
		return err
	})
	if err == nil {
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

// descriptor is what has the descriptor now, nil for what is no TCP connection. Under mu.
func (k *socket) descriptor() syscall.Conn {
	if k.direct != nil {
		return k.direct.file
	}
	if tcp, ok := k.nc.(*net.TCPConn); ok {
		return tcp
	}
	return nil
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
	if k.direct == nil {
		_ = k.nc.Close()
		return
	}
	k.direct.Close(reset)
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
	if k.direct != nil {
		return errDirect
	}
	return k.nc.SetReadDeadline(t)
}

// closeWrite ends what is sent, and lets the other side send on. It reports whether it could.
func (k *socket) closeWrite() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	tcp, ok := k.nc.(*net.TCPConn)
	return ok && k.direct == nil && tcp.CloseWrite() == nil
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

package target

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// directWait bounds a wait of a direct connection to be read from. The kernel counts it in ticks of up to 10 ms.
	directWait = 5 * time.Millisecond
	// directRoom is how long a write waits for room before it looks whether the connection was closed.
	directRoom = 20 * time.Millisecond
)

// direct is a TCP connection whose descriptor is in no poller: to read is to wait in read(2). It never waits in write(2), which a close
// by another goroutine would not end.
type direct struct {
	file *os.File
	raw  syscall.RawConn
	send func(fd uintptr) // sends of rest what there is room for; made once, so that a write allocates nothing
	rest []byte
	sent int
	err  error
}

// newDirect takes a second descriptor of the connection and closes the first one. On an error tcp is as it was.
func newDirect(tcp *net.TCPConn) (*direct, error) {
	fd := -1
	err := control(tcp, func(own int) (err error) {
		fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	wait := unix.NsecToTimeval(int64(directWait))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	if err == nil {
		err = unix.SetNonblock(fd, false) // last: it holds for both descriptors
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	d := &direct{file: os.NewFile(uintptr(fd), tcp.RemoteAddr().String())}
	d.raw, err = d.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, unix.SetNonblock(fd, true), d.file.Close())
	}
	d.send = func(fd uintptr) {
		n, _, errno := unix.Syscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(d.rest))), uintptr(len(d.rest)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if d.sent, d.err = int(n), nil; errno != 0 {
			d.sent, d.err = 0, errno
		}
	}
	_ = tcp.Close() // the other descriptor is left, whatever it says
	return d, nil
}

// polled is the way back: a connection of Go's with a descriptor of its own. On an error d is as it was.
func (d *direct) polled() (net.Conn, error) {
	nc, err := net.FileConn(d.file)
	if err != nil {
		// The poller may have refused it after it was told not to wait.
		return nil, errors.Join(err, control(d.file, func(fd int) error { return unix.SetNonblock(fd, false) }))
	}
	_ = d.file.Close()
	return nc, nil
}

// Read is that of net.Conn, with os.ErrDeadlineExceeded after directWait.
func (d *direct) Read(b []byte) (int, error) {
	n, err := d.file.Read(b)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, unix.EAGAIN):
		return n, os.ErrDeadlineExceeded
	}
	return n, directError(err)
}

// Write is that of net.Conn. All of b is sent by the deadline, or what is left is not.
func (d *direct) Write(b []byte, deadline time.Time) (int, error) {
	done := 0
	defer func() { d.rest = nil }() // the buffer has another owner after this
	for {
		d.rest = b[done:]
		if err := d.raw.Control(d.send); err != nil {
			return done, directError(err)
		}
		if done += d.sent; done == len(b) {
			return done, nil
		}
		switch {
		case d.err == nil, errors.Is(d.err, unix.EINTR):
		case !errors.Is(d.err, unix.EAGAIN):
			return done, directError(d.err)
		case time.Now().After(deadline):
			return done, os.ErrDeadlineExceeded
		default:
			_ = control(d.file, awaitRoom) // whatever it is, sending tells
		}
	}
}

func awaitRoom(fd int) error {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(directRoom.Milliseconds()))
	return err
}

// Close ends it, and a Read that waits; with reset nothing the kernel holds is sent any more, from this moment on.
func (d *direct) Close(reset bool) {
	_ = control(d.file, func(fd int) error {
		if reset && abort(fd) == nil {
			return nil
		}
		return unix.Shutdown(fd, unix.SHUT_RDWR) // closing a descriptor wakes nobody in read(2)
	})
	_ = d.file.Close()
}

// abort resets a TCP connection at once, whoever waits for it: connect(2) to an address of no family. Some kernels (Linux 6.4 to 6.6)
// refuse it while somebody waits; then the last close resets it, by SO_LINGER.
func abort(fd int) error {
	var none unix.RawSockaddr // AF_UNSPEC
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none)); errno != 0 {
		return errno
	}
	return nil
}

// directError is an error of a file as a connection would have it.
func directError(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	if errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
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

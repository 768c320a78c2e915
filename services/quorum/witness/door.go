package witness

import (
	"crypto/tls"
	"net"
	"sync"
)

// door takes connections and turns away those of an address that has too many which have not proven themselves. So nobody without a
// certificate can take the places of those who have one.
type door struct {
	net.Listener
	most int

	mu        sync.Mutex
	strangers map[string]int // by address
}

func newDoor(l net.Listener, most int) *door {
	return &door{Listener: l, most: most, strangers: map[string]int{}}
}

// Accept is the next connection that may come in.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			host = c.RemoteAddr().String()
		}
		if d.enter(host) {
			return &visitor{Conn: c, stranger: true, known: func() { d.leave(host) }}, nil
		}
		_ = c.Close()
	}
}

func (d *door) enter(host string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.strangers[host] >= d.most {
		return false
	}
	d.strangers[host]++
	return true
}

func (d *door) leave(host string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.strangers[host]--; d.strangers[host] == 0 {
		delete(d.strangers, host)
	}
}

// visitor is a connection that gives back, at its end, what it took.
type visitor struct {
	net.Conn
	known func() // it is no stranger any more

	mu       sync.Mutex
	stranger bool
	closed   bool
	leave    func() // of its cluster
}

// Close may be repeated.
func (v *visitor) Close() error {
	v.mu.Lock()
	stranger, leave := v.stranger, v.leave
	v.stranger, v.leave, v.closed = false, nil, true
	v.mu.Unlock()
	if stranger {
		v.known()
	}
	if leave != nil {
		leave()
	}
	return v.Conn.Close()
}

// proven makes a connection its cluster's; leave is called at its end.
func proven(c net.Conn, leave func()) {
	v := c.(*tls.Conn).NetConn().(*visitor)
	v.mu.Lock()
	stranger, closed := v.stranger, v.closed
	v.stranger = false
	if !closed {
		v.leave = leave
	}
	v.mu.Unlock()
	if stranger {
		v.known()
	}
	if closed {
		leave()
	}
}

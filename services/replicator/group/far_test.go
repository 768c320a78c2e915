package group

import (
	"net"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// farLink is a way to a site whose answers take a while, and which notes what is sent there. While it is deaf nothing is.
type farLink struct {
	ln      net.Listener
	to      string
	latency time.Duration

	mu   sync.Mutex
	sent []passed
	deaf chan struct{} // closed when it is deaf no more; nil: it is not
}

// passed is how many bytes had gone to the site by a moment.
type passed struct {
	at    time.Time
	total int
}

// farAway puts a site far from those that are booted from now on.
func (c *cluster) farAway(site domain.SiteID, latency time.Duration) *farLink {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	l := &farLink{ln: ln, to: strings.TrimPrefix(c.urls[site], "nats://"), latency: latency}
	c.t.Cleanup(func() { _ = ln.Close() })
	go l.accept()
	c.far = map[domain.SiteID]*farLink{site: l}
	c.lines = false // which would be no farther than before
	return l
}

func (l *farLink) url() string { return "nats://" + l.ln.Addr().String() }

func (l *farLink) accept() {
	for {
		near, err := l.ln.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		go l.forward(near, far)
		go l.answer(far, near)
	}
}

// forward hands on what is sent to the site at once. It is noted before it goes on, so that what answers it is later.
func (l *farLink) forward(near, far net.Conn) {
	defer near.Close()
	defer far.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := near.Read(buf)
		if err != nil {
			return
		}
		l.hear()
		l.note(n)
		if _, err := far.Write(buf[:n]); err != nil {
			return
		}
	}
}

// deafen keeps what is sent to the site from it, or lets it come there again.
func (l *farLink) deafen(deaf bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case deaf && l.deaf == nil:
		l.deaf = make(chan struct{})
	case !deaf && l.deaf != nil:
		close(l.deaf)
		l.deaf = nil
	}
}

// hear returns when it is not deaf.
func (l *farLink) hear() {
	l.mu.Lock()
	deaf := l.deaf
	l.mu.Unlock()
	if deaf != nil {
		<-deaf
	}
}

// answer hands on what the site says when it has been on the way for long enough.
func (l *farLink) answer(far, near net.Conn) {
	type piece struct {
		due time.Time
		b   []byte
	}
	queue := make(chan piece, 1<<16)
	defer close(queue)
	go func() {
		defer near.Close()
		for p := range queue {
			time.Sleep(time.Until(p.due)) // the link's latency itself
			if _, err := near.Write(p.b); err != nil {
				return
			}
		}
	}()
	for {
		buf := make([]byte, 4<<10)
		n, err := far.Read(buf)
		if err != nil {
			return
		}
		queue <- piece{time.Now().Add(l.latency), buf[:n]}
	}
}

func (l *farLink) note(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := n
	if len(l.sent) > 0 {
		total += l.sent[len(l.sent)-1].total
	}
	l.sent = append(l.sent, passed{time.Now(), total})
}

// forget begins anew to note.
func (l *farLink) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = nil
}

// most is the most that went to the site within the time that an answer takes: nothing of that can have been answered.
func (l *farLink) most() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	most, first := 0, 0
	for _, p := range l.sent {
		for p.at.Sub(l.sent[first].at) >= l.latency {
			first++
		}
		before := 0
		if first > 0 {
			before = l.sent[first-1].total
		}
		most = max(most, p.total-before)
	}
	return most
}

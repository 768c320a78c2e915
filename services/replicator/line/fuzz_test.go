package line

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// split is what a server has to take of a client's bytes.
func split(b []byte) (messages [][]byte) {
	for len(b) >= headBytes {
		n, at, gap := int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:])), int64(binary.LittleEndian.Uint32(b[8:]))
		b = b[headBytes:]
		if n < 1 || n > maxMessage || at+gap > n || at > 0 && gap == 0 || n-gap > int64(len(b)) {
			break
		}
		m := append(bytes.Clone(b[:at]), make([]byte, gap)...)
		messages, b = append(messages, append(m, b[at:n-gap]...)), b[n-gap:]
	}
	return messages
}

// scripted is a connection whose client said everything at once, and hears everything.
type scripted struct {
	net.Conn
	io.Reader
	heard bytes.Buffer
}

func (c *scripted) Read(b []byte) (int, error)       { return c.Reader.Read(b) }
func (c *scripted) Write(b []byte) (int, error)      { return c.heard.Write(b) }
func (c *scripted) Close() error                     { return nil }
func (c *scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *scripted) SetDeadline(time.Time) error      { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// FuzzServer: of whatever follows a hello the whole messages are taken, and acked, and nothing else.
func FuzzServer(f *testing.F) {
	f.Add([]byte("\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00one\x03\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x0023"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewServer("", nil, newLogger(io.Discard))
		want, taken := split(b), 0
		heard := []byte{welcome}
		o, closing := s.Open(func(_ context.Context, m []byte) (Ack, error) {
			if taken == len(want) || !bytes.Equal(m, want[taken]) {
				t.Fatalf("message %d is another", taken)
			}
			taken++
			a, out := Ack{Frame: uint64(taken)}, [ackBytes]byte{}
			a.put(&out)
			heard = append(heard, out[:]...)
			return a, nil
		})
		c := &scripted{Reader: bytes.NewReader(append(putHello(o.Token), b...))}
		s.serve(t.Context(), c)
		closing()
		if taken != len(want) || !bytes.Equal(c.heard.Bytes(), heard) {
			t.Fatalf("%d of %d messages taken, answered % x", taken, len(want), c.heard.Bytes())
		}
	})
}

// FuzzAcks: of whatever a server sends the whole acks are told as they were written, and nothing else.
func FuzzAcks(f *testing.F) {
	var b [ackBytes]byte
	(&Ack{LSN: 1, Frame: 2, Arrived: 3, Resend: true}).put(&b)
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		mine, theirs := net.Pipe()
		defer theirs.Close()
		c := &Conn{nc: mine, lost: make(chan struct{}), read: make(chan struct{})}
		told := 0
		c.readAcks(bufio.NewReader(bytes.NewReader(b)), func(a Ack) {
			var again [ackBytes]byte
			if a.put(&again); !bytes.Equal(again[:], b[told*ackBytes:][:ackBytes]) {
				t.Fatalf("ack %d is %+v", told, a)
			}
			told++
		})
		if c.Err() == nil {
			t.Fatal("the line holds")
		}
		if rest := b[told*ackBytes:]; len(rest) >= ackBytes {
			if a, err := parseAck((*[ackBytes]byte)(rest)); err == nil {
				t.Fatalf("ack %d, %+v, is not told", told, a)
			}
		}
	})
}

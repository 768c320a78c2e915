// Package qga speaks to the QEMU guest agent: JSON lines over the guest's virtio-serial port, which QEMU hands on as a stream of bytes.
//
// Nothing on that stream is framed. A guest that was reset leaves half a line; an answer may come after nobody waits for it any
// more; a console that was put on the port by mistake writes what it likes. So each exchange begins with
// guest-sync-delimited, and all that comes before its answer is thrown away:
//
//	host                                            guest
//	0xFF {guest-sync-delimited, id: 7}  ------->
//	        (anything)                  <-------
//	0xFF {return: 7}                    <-------
//	{guest-fsfreeze-freeze}             ------->
//	{return: 2}                         <-------    two file systems are frozen
//
// The agent carries commands out in their order. A freeze whose answer did not come in time may therefore still happen: until a
// thaw is answered, the guest counts as frozen (Thaw).
//
// Protocol: qga/qapi-schema.json of QEMU 7.2.
package qga

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// maxLine bounds what is kept of a line; the agent's answers here are some dozens of bytes.
const maxLine = 64 << 10

const delimiter = 0xFF

// Agent is the guest agent of one VM. Its methods may be called from any goroutine; they take turns.
type Agent struct {
	conn net.Conn
	in   *bufio.Reader
	turn chan struct{} // holds one token: the right to use the stream

	// Guarded by turn.
	id     int64
	sent   bool // a freeze was sent, and no thaw was answered since
	frozen int  // file systems, as the freeze answered
}

// New speaks over conn, the host's end of the port. It is closed by whoever made it.
func New(conn net.Conn) *Agent {
	a := &Agent{conn: conn, in: bufio.NewReaderSize(conn, maxLine), turn: make(chan struct{}, 1)}
	a.turn <- struct{}{}
	return a
}

// message is one answer.
type message struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// Freeze has the guest write out what it holds back and freeze its file systems, and returns once they are. Errors:
// domain.ErrUnavailable (nobody answers in the guest), domain.ErrRefused (the agent refuses, or took longer than ctx has). After an
// error the guest may be frozen, or become so later: call Thaw.
func (a *Agent) Freeze(ctx context.Context) error {
	end, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := a.sync(ctx); err != nil {
		return err
	}
	if a.sent {
		return fmt.Errorf("the guest did not yet say that it goes on after the last freeze: %w", domain.ErrConflict)
	}
	a.sent, a.frozen = true, 0
	var n int
	if err := a.execute(ctx, "guest-fsfreeze-freeze", &n); err != nil {
		return err
	}
	if n <= 0 {
		return fmt.Errorf("the guest has no file system that can be frozen: %w", domain.ErrRefused)
	}
	a.frozen = n
	return nil
}

// Thaw lets the guest go on, and returns nil once it says that it does. stayed is false when the guest was not frozen all the time
// since Freeze returned: the agent found fewer file systems to thaw. Where no freeze was sent there is nothing to do. Repeat it
// until it succeeds: its errors are domain.ErrUnavailable and domain.ErrRefused.
func (a *Agent) Thaw(ctx context.Context) (stayed bool, err error) {
	end, err := a.begin(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	if !a.sent {
		return false, nil
	}
	return a.thaw(ctx)
}

func (a *Agent) thaw(ctx context.Context) (stayed bool, err error) {
	if err := a.sync(ctx); err != nil {
		return false, err
	}
	var n int
	if err := a.execute(ctx, "guest-fsfreeze-thaw", &n); err != nil {
		return false, err
	}
	stayed = a.frozen > 0 && n >= a.frozen
	a.sent, a.frozen = false, 0
	return stayed, nil
}

// Recover thaws a guest that is found frozen without a freeze of this Agent: whoever froze it is gone. It reports whether it did.
func (a *Agent) Recover(ctx context.Context) (thawed bool, err error) {
	end, err := a.begin(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	if a.sent {
		return false, nil // who froze it thaws it
	}
	if err := a.sync(ctx); err != nil {
		return false, err
	}
	var status string
	if err := a.execute(ctx, "guest-fsfreeze-status", &status); err != nil || status != "frozen" {
		return false, err
	}
	_, err = a.thaw(ctx)
	return err == nil, err
}

// begin takes the stream until ctx ends, and gives what hands it back.
func (a *Agent) begin(ctx context.Context) (end func(), err error) {
	select {
	case <-a.turn:
	case <-ctx.Done():
		return nil, fmt.Errorf("another exchange with the guest agent is under way: %w: %w", domain.ErrUnavailable, ctx.Err())
	}
	deadline, _ := ctx.Deadline() // none: the zero time, which is none for the connection too
	_ = a.conn.SetDeadline(deadline)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = a.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-ended // it must not end the exchange after this one
		}
		a.turn <- struct{}{}
	}, nil
}

// sync throws away what is on the stream, up to the agent's answer to a new number.
func (a *Agent) sync(ctx context.Context) error {
	a.id++
	err := a.send("\xff", "guest-sync-delimited", map[string]int64{"id": a.id})
	for err == nil {
		var line []byte
		if err = a.skip(); err != nil {
			break
		}
		if line, err = a.line(); err != nil {
			break
		}
		var got int64
		var m message
		if json.Unmarshal(line[bytes.LastIndexByte(line, delimiter)+1:], &m) == nil && json.Unmarshal(m.Return, &got) == nil && got == a.id {
			return nil
		}
	}
	if ended(ctx, err) {
		return fmt.Errorf("no guest agent answers: %w: install qemu-guest-agent in the guest, and start it", domain.ErrUnavailable)
	}
	return fmt.Errorf("speak to the guest agent: %w: %w", domain.ErrUnavailable, err)
}

// execute sends a command without arguments and decodes what it returns.
func (a *Agent) execute(ctx context.Context, command string, reply any) error {
	err := a.send("", command, nil)
	for err == nil {
		var line []byte
		if line, err = a.line(); err != nil {
			break
		}
		var m message
		if json.Unmarshal(line, &m) != nil || m.Return == nil && m.Error == nil {
			continue // not from the agent
		}
		if m.Error != nil {
			return fmt.Errorf("the guest agent refuses %s: %w: %s", command, domain.ErrRefused, m.Error.Desc)
		}
		if err := json.Unmarshal(m.Return, reply); err != nil {
			return fmt.Errorf("the guest agent answers %s with %.80q: %w", command, m.Return, domain.ErrRefused)
		}
		return nil
	}
	if ended(ctx, err) {
		return fmt.Errorf("the guest agent took too long over %s: %w", command, domain.ErrRefused)
	}
	return fmt.Errorf("speak to the guest agent: %w: %w", domain.ErrUnavailable, err)
}

func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// send writes a command, after what ends whatever the guest's parser holds of an earlier one.
func (a *Agent) send(before, command string, arguments any) error {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	_, err = a.conn.Write(append([]byte(before), append(b, '\n')...))
	return err
}

// skip reads up to a delimiter.
func (a *Agent) skip() error {
	for {
		_, err := a.in.ReadSlice(delimiter)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// line reads a whole line; of one that is too long only the end, which is no answer.
func (a *Agent) line() ([]byte, error) {
	for {
		b, err := a.in.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return b, err
		}
	}
}

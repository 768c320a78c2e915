package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	greeting   = "holdfast-relay/1"
	maxRequest = 64  // bytes of a client's line, its end included
	maxAnswer  = 512 // and of the relay's
)

// errNotRelay is a peer that does not speak the line.
var errNotRelay = errors.New("does not speak " + greeting)

// ErrNoRelay is an answer that is no relay's: something else listens at that address.
var ErrNoRelay = errors.New("what answers there is no relay")

// request is the client's line for a destination.
func request(to domain.SiteID) []byte { return []byte(greeting + " " + string(to) + "\n") }

// readRequest reads a client's line. The client must not have sent more: it waits for the answer.
func readRequest(r io.Reader) (domain.SiteID, error) {
	var buf [maxRequest]byte
	n := 0
	for {
		m, err := r.Read(buf[n:])
		n += m
		if end := bytes.IndexByte(buf[:n], '\n'); end >= 0 {
			if end+1 != n {
				return "", fmt.Errorf("%w: it sends before it was answered", errNotRelay)
			}
			return parseRequest(string(buf[:end]))
		}
		if n == len(buf) {
			return "", fmt.Errorf("%w: no line within %d bytes", errNotRelay, maxRequest)
		}
		if err != nil {
			return "", err
		}
	}
}

func parseRequest(line string) (domain.SiteID, error) {
	name, ok := strings.CutPrefix(line, greeting+" ")
	if !ok || !domain.ValidToken(name) {
		return "", errNotRelay
	}
	return domain.SiteID(name), nil
}

// answer is the relay's line for the outcome of a request, nil for a connection that stands.
func answer(err error) []byte {
	if err == nil {
		return []byte("ok\n")
	}
	text := strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, err.Error())
	line := "no " + domain.Code(err) + " " + text
	return []byte(line[:min(len(line), maxAnswer-1)] + "\n")
}

// Refusal is a relay's no. It wraps the sentinel of its code: domain.ErrRefused where asking again changes nothing until
// somebody mends it, domain.ErrUnavailable where the destination did not answer.
type Refusal struct {
	Code string
	Text string
}

// Error is what the relay said.
func (r *Refusal) Error() string { return r.Text }

// Unwrap gives the sentinel of the code.
func (r *Refusal) Unwrap() error { return domain.FromCode(r.Code) }

// readAnswer reads the relay's line, and not one byte of what follows it. The error is a *Refusal, wraps domain.ErrInvalid when what
// answered is no relay, or is the connection's own.
func readAnswer(r io.Reader) error {
	line := make([]byte, 0, 64)
	for {
		if len(line) == maxAnswer {
			return notARelay(line)
		}
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			if len(line) > 0 && errors.Is(err, io.EOF) {
				return notARelay(line)
			}
			return err
		}
		if b[0] == '\n' {
			return parseAnswer(line)
		}
		line = append(line, b[0])
	}
}

func parseAnswer(line []byte) error {
	if string(line) == "ok" {
		return nil
	}
	rest, ok := strings.CutPrefix(string(line), "no ")
	code, text, whole := strings.Cut(rest, " ")
	if !ok || !whole || domain.FromCode(code) == nil {
		return notARelay(line)
	}
	return &Refusal{Code: code, Text: text}
}

func notARelay(line []byte) error {
	return fmt.Errorf("%w: %w: it says %.40q", domain.ErrInvalid, ErrNoRelay, line)
}

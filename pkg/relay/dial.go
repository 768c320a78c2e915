package relay

import (
	"fmt"
	"net"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Dialer connects to a site's NATS server by way of another site's relay. It is what the NATS client calls a custom dialer.
type Dialer struct {
	To      domain.SiteID
	Relay   string        // host:port of the relay
	Timeout time.Duration // for the connection and the relay's answer together
}

// Dial connects, whatever address it is given: the relay knows the one of the destination. When it returns, the next byte is the
// destination's. The error wraps a *Refusal when the relay said no, domain.ErrInvalid when what answered is none.
func (d Dialer) Dial(network, _ string) (net.Conn, error) {
	end := time.Now().Add(d.Timeout)
	conn, err := (&net.Dialer{Deadline: end}).Dial(network, d.Relay)
	if err == nil {
		if err = d.ask(conn, end); err != nil {
			_ = conn.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reach site %s by the relay at %s: %w", d.To, d.Relay, err)
	}
	return conn, nil
}

func (d Dialer) ask(conn net.Conn, end time.Time) error {
	if err := conn.SetDeadline(end); err != nil {
		return err
	}
	if _, err := conn.Write(request(d.To)); err != nil {
		return err
	}
	if err := readAnswer(conn); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

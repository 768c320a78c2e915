package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// Refusal is a connection that a site's NATS server refused.
type Refusal struct {
	Address string    // where it came from: IP
	Reason  string    // as the server words it: "TLS Handshake Failure", "Authentication Failure"
	User    string    // public NKEY it showed; empty when it did not come that far
	At      time.Time // by the server's clock
}

// refusedFor are the reasons a server closes a connection for that it did not want; the others are ends of good ones.
func refusedFor() []string {
	return []string{"TLS Handshake Failure", "Authentication Failure", "Authentication Expired", "Authentication Timeout", "Credentials Revoked", "Missing Account"}
}

// Monitor reads a site's server's own account of its connections, as the principal monitor.
type Monitor struct {
	conn *Conn
	told map[ending]bool // what the server still lists and was given before
}

// ending is the end of one connection. Connections end in another order than they begin, and a server that was started again
// counts them from 1.
type ending struct {
	cid  uint64
	stop time.Time
}

// closedConn is a closed connection as a server lists it.
type closedConn struct {
	CID    uint64    `json:"cid"`
	IP     string    `json:"ip"`
	Reason string    `json:"reason"`
	User   string    `json:"authorized_user"`
	Stop   time.Time `json:"stop"`
}

// DialMonitor opens the monitor of a site's own server. It does not wait for it.
func DialMonitor(site domain.SiteID, url string, creds *identity.Credentials, log *slog.Logger) (*Monitor, error) {
	c, err := dialOne(Config{Site: site, Service: "monitor", Logger: log, Credentials: creds, Now: time.Now}, site, url, nil)
	if err != nil {
		return nil, err
	}
	return &Monitor{conn: c}, nil
}

// Close ends the connection.
func (m *Monitor) Close() { m.conn.nc.Close() }

// Refusals gives the refused connections that were not given before, oldest first: of the last ten thousand closed ones.
// The error wraps domain.ErrUnavailable.
func (m *Monitor) Refusals(ctx context.Context) ([]Refusal, error) {
	ask, err := json.Marshal(map[string]any{"state": 1, "sort": "cid", "limit": 10000, "auth": true})
	if err != nil {
		return nil, fmt.Errorf("ask for refused connections: %w", err)
	}
	msg := nats.NewMsg("$SYS.REQ.SERVER.PING.CONNZ")
	msg.Data = ask
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := m.conn.nc.RequestMsgWithContext(ctx, msg) // of the server itself, which is no service
	if err != nil {
		return nil, fmt.Errorf("request %s of site %s: %w: %w", msg.Subject, m.conn.site, domain.ErrUnavailable, err)
	}
	var reply struct {
		Data struct {
			Connections []closedConn `json:"connections"`
		} `json:"data"`
	}
	if err := json.Unmarshal(answer.Data, &reply); err != nil {
		return nil, fmt.Errorf("read refused connections: %w", err)
	}
	return m.fresh(reply.Data.Connections), nil
}

// fresh are the refusals in a server's list that were not given before, oldest first.
func (m *Monitor) fresh(all []closedConn) []Refusal {
	var out []Refusal
	listed := map[ending]bool{}
	for _, c := range all {
		if !slices.Contains(refusedFor(), c.Reason) {
			continue
		}
		e := ending{c.CID, c.Stop.UTC()}
		if listed[e] = true; !m.told[e] {
			out = append(out, Refusal{Address: c.IP, Reason: c.Reason, User: c.User, At: c.Stop})
		}
	}
	m.told = listed
	slices.SortStableFunc(out, func(a, b Refusal) int { return a.At.Compare(b.At) })
	return out
}

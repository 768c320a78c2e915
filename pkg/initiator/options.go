package initiator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrBroken fails what was in flight when the connection broke, and everything after it.
	ErrBroken = errors.New("iSCSI connection broken")
	// ErrAmbiguous marks a change that may or may not have reached the disk.
	ErrAmbiguous = errors.New("outcome unknown")
	// ErrMiscompare is CompareAndWrite finding something else on the disk. Nothing was written.
	ErrMiscompare = errors.New("miscompare")
	// ErrAuth is a login refused for its credentials.
	ErrAuth = errors.New("iSCSI login refused: credentials")
	// ErrTimeout ends a call that took longer than Options.Timeout.
	ErrTimeout = errors.New("iSCSI command timed out")
	// ErrClosed fails calls on a session that was closed.
	ErrClosed = errors.New("iSCSI session closed")
	// ErrOtherDisk ends a session that found another disk behind the same URL when it came back.
	ErrOtherDisk = errors.New("another disk answers at this URL")
)

// CHAP holds the credentials of both directions (RFC 7143 section 12.1.3). An empty User means none.
type CHAP struct {
	User, Secret             string // proves us to the target
	MutualUser, MutualSecret string // proves the target to us; asked for when MutualSecret is set
	MutualOld                string // is taken in place of MutualSecret, too, while that is changed
}

// Options shape a session. The zero value works.
type Options struct {
	// Name is the initiator's IQN.
	Name string
	// CHAP overrides the credentials of the URL.
	CHAP CHAP
	// Credentials, when set, are asked for before each login and override CHAP, so that a session that reconnects proves
	// itself with what is right by then.
	Credentials func() CHAP
	// HeaderDigest and DataDigest insist on CRC32C.
	HeaderDigest, DataDigest bool
	// Timeout bounds each command whose context has no deadline. 0 means 30 s; negative means none.
	Timeout time.Duration
	// LoginTimeout bounds a connection attempt and its login. 0 means 10 s.
	LoginTimeout time.Duration
	// Silence is how long a connection with commands in flight may be silent before a NOP-Out asks; after as long again
	// it is broken. 0 means 5 s.
	Silence time.Duration
	// QueueDepth bounds the commands in flight. 0 means 64.
	QueueDepth int
	// Replay reconnects after a break and sends outstanding commands again.
	Replay bool
	// ReplayTimeout ends the session when a reconnect has not succeeded for so long. 0 means never.
	ReplayTimeout time.Duration
	// Dial opens the connection; nil means TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultName    = "iqn.2026-11.dev.holdfast:initiator"
	defaultTimeout = 30 * time.Second
	defaultLogin   = 10 * time.Second
	defaultSilence = 5 * time.Second
	defaultDepth   = 64
	defaultPort    = "3260"
)

func (o Options) withDefaults(u URL) Options {
	if o.Name == "" {
		o.Name = defaultName
	}
	if o.CHAP.User == "" {
		o.CHAP.User, o.CHAP.Secret = u.User, u.Secret
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.LoginTimeout <= 0 {
		o.LoginTimeout = defaultLogin
	}
	if o.Silence <= 0 {
		o.Silence = defaultSilence
	}
	if o.QueueDepth <= 0 {
		o.QueueDepth = defaultDepth
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return o
}

// URL names a logical unit: iscsi://[user%secret@]host[:port]/iqn/lun, as libiscsi and QEMU write it.
type URL struct {
	User, Secret string
	Address      string // host:port
	Target       string // IQN
	LUN          int
}

// ParseURL reads a URL; the port defaults to 3260. Percent signs other than the one between user and secret introduce
// an escape.
func ParseURL(s string) (URL, error) {
	rest, ok := strings.CutPrefix(s, "iscsi://")
	if !ok {
		return URL{}, fmt.Errorf("parse iSCSI URL: want iscsi://[user%%secret@]host[:port]/iqn/lun")
	}
	var u URL
	slash := strings.IndexByte(rest, '/')
	if at := strings.LastIndexByte(rest[:max(slash, 0)], '@'); at >= 0 {
		user, secret, ok := strings.Cut(rest[:at], "%")
		if !ok || user == "" {
			return URL{}, errors.New("parse iSCSI URL: want user%secret before the @")
		}
		var err1, err2 error
		u.User, err1 = url.PathUnescape(user)
		u.Secret, err2 = url.PathUnescape(secret)
		if err1 != nil || err2 != nil {
			return URL{}, errors.New("parse iSCSI URL: credentials: bad escape")
		}
		rest = rest[at+1:]
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return URL{}, fmt.Errorf("parse iSCSI URL: %q: want host[:port]/iqn/lun", rest)
	}
	lun, err := strconv.Atoi(parts[2])
	if err != nil || lun < 0 || lun > 16383 {
		return URL{}, fmt.Errorf("parse iSCSI URL: lun %q: want 0 to 16383", parts[2])
	}
	u.Address, u.Target, u.LUN = withPort(parts[0]), parts[1], lun
	return u, nil
}

func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
}

// String is the URL without its credentials.
func (u URL) String() string { return fmt.Sprintf("iscsi://%s/%s/%d", u.Address, u.Target, u.LUN) }

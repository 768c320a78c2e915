package bus

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// Headers of a signed request.
const (
	userHeader      = "Hf-User"
	passHeader      = "Hf-Pass"
	timeHeader      = "Hf-Time"
	nonceHeader     = "Hf-Nonce"
	signatureHeader = "Hf-Signature"
)

const (
	// freshFor is how far the clocks of a caller and of the site it calls may be apart.
	freshFor = 5 * time.Minute
	// maxNonces bounds the memory of requests that were taken.
	maxNonces = 1 << 17
)

// signedText is what a signature covers.
func signedText(subject, at, nonce string, body []byte) []byte {
	sum := sha256.Sum256(body)
	return []byte("holdfast request v1\n" + subject + "\n" + at + "\n" + nonce + "\n" + hex.EncodeToString(sum[:]))
}

// sign proves who makes the request. Without credentials it does nothing.
func (c *Conn) sign(msg *nats.Msg) error {
	if c.creds == nil {
		return nil
	}
	at, nonce := c.now().UTC().Format(time.RFC3339Nano), rand.Text()
	s, err := c.creds.Sign(signedText(msg.Subject, at, nonce, msg.Data))
	if err != nil {
		return err
	}
	h := headerCarrier(msg.Header)
	h.Set(userHeader, s.User)
	h.Set(passHeader, s.Pass)
	h.Set(timeHeader, at)
	h.Set(nonceHeader, nonce)
	h.Set(signatureHeader, base64.StdEncoding.EncodeToString(s.Signature))
	return nil
}

type callerKey struct{}

// Caller is who made a request.
type Caller struct{ access.Principal }

// CallerOf gives the verified caller of the request that ctx is of; false where requests are not signed.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// guard checks requests where they land.
type guard struct {
	creds *identity.Credentials
	now   func() time.Time
	seen  *nonces
}

// check verifies a request to a verb and puts its caller into the context. The errors wrap domain.ErrRefused.
func (g *guard) check(ctx context.Context, at domain.SiteID, service, verb, subject string, header map[string][]string, body []byte) (context.Context, error) {
	h := headerCarrier(header)
	refuse := func(format string, a ...any) error {
		return fmt.Errorf("%s of %s at site %s: %w: %s", verb, service, at, domain.ErrRefused, fmt.Sprintf(format, a...))
	}
	now := g.now()
	who, err := g.signer(subject, header, body, now)
	if err != nil {
		return ctx, fmt.Errorf("%s of %s at site %s: %w", verb, service, at, err)
	}
	made, err := time.Parse(time.RFC3339Nano, h.Get(timeHeader))
	if err != nil {
		return ctx, refuse("the time %q of the request of %s is not readable", h.Get(timeHeader), who)
	}
	if apart := now.Sub(made).Abs(); apart > freshFor {
		return ctx, refuse("the clocks of site %s (%s) and site %s (%s) are %s apart, more than %s: set both by NTP",
			who.Site, made.UTC().Format(time.RFC3339), at, now.UTC().Format(time.RFC3339), apart.Round(time.Second), freshFor)
	}
	if !access.ReadsOnly(verb) && !g.seen.add(who.String()+" "+h.Get(nonceHeader), now) {
		return ctx, refuse("this request of %s was taken before: it was replayed", who)
	}
	if !access.MayCall(who, at, service, verb) {
		return ctx, refuse("%s may not call it", who)
	}
	return context.WithValue(ctx, callerKey{}, Caller{who}), nil
}

// signer verifies who signed a request. The errors wrap domain.ErrRefused.
func (g *guard) signer(subject string, header map[string][]string, body []byte, now time.Time) (access.Principal, error) {
	h := headerCarrier(header)
	sig, err := base64.StdEncoding.DecodeString(h.Get(signatureHeader))
	if err != nil || len(sig) == 0 {
		return access.Principal{}, fmt.Errorf("%w: the request is not signed: set security.secrets where it comes from", domain.ErrRefused)
	}
	signed := identity.Signed{User: h.Get(userHeader), Pass: h.Get(passHeader), Signature: sig}
	return g.creds.Verify(signed, signedText(subject, h.Get(timeHeader), h.Get(nonceHeader), body), now)
}

// checkPlain verifies a request to Handle: who signed it, and that it may send to the subject. What Handle serves is guarded
// against repeats by itself (epochs, rounds, offsets), so that clocks and memory have no part in a vote.
func (g *guard) checkPlain(ctx context.Context, subject string, header map[string][]string, body []byte) (context.Context, error) {
	who, err := g.signer(subject, header, body, g.now())
	if err != nil {
		return ctx, fmt.Errorf("%s: %w", subject, err)
	}
	if !access.MaySend(who, subject) {
		return ctx, fmt.Errorf("%s: %w: %s may not send it", subject, domain.ErrRefused, who)
	}
	return context.WithValue(ctx, callerKey{}, Caller{who}), nil
}

// mayAnswer reports whether an answer may go to the reply subject of a request: into the inbox of who signed it, or, where
// nobody did, into some inbox. The server checks no reply subject, and lets whoever answers publish there: without this any caller
// could have its callee publish an event, a vote or a record for it.
func (c *Conn) mayAnswer(ctx context.Context, reply string) bool {
	if c.guard == nil {
		return true
	}
	if who, ok := CallerOf(ctx); ok {
		return strings.HasPrefix(reply, who.InboxPrefix()+".")
	}
	return strings.HasPrefix(reply, "_INBOX_")
}

// nonces remembers requests that change something for as long as they are fresh: two generations, each of freshFor twice, so
// that the memory is bounded in time and number. Only verified callers get in; questions, which are many, do not.
type nonces struct {
	mu       sync.Mutex
	now, old map[string]struct{}
	turned   time.Time
}

func newNonces() *nonces { return &nonces{now: map[string]struct{}{}} }

// add reports whether the key is new.
func (n *nonces) add(key string, at time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.Sub(n.turned) > 2*freshFor || len(n.now) >= maxNonces/2 {
		n.old, n.now, n.turned = n.now, map[string]struct{}{}, at
	}
	if _, ok := n.now[key]; ok {
		return false
	}
	if _, ok := n.old[key]; ok {
		return false
	}
	n.now[key] = struct{}{}
	return true
}

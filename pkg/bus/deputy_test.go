package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// TestVoteThatAServerSendsForAnotherIsRefused: a server's JetStream answers where the asker's reply subject says, with no regard
// to the asker's permissions. A failover service can so put words of its own on the subject of the votes; the voter must not count them.
func TestVoteThatAServerSendsForAnotherIsRefused(t *testing.T) {
	l := secured(t, "a", "b")
	q := l.mesh(access.Principal{Site: "a", Service: "quorum"}, nil, nil)
	l.must(q.Local().EnsureAssets(t.Context()))
	subject := api.VoteSubject("a", "prepare")
	counted := make(chan string, 10)
	l.must(q.Local().Handle(t.Context(), subject, func(ctx context.Context, data []byte) ([]byte, error) {
		who, _ := bus.CallerOf(ctx)
		counted <- who.String() + " " + string(data)
		return []byte("{}"), nil
	}))
	spy := l.raw(access.Principal{Site: "a", Service: "quorum"}, "a")
	heard := make(chan *nats.Msg, 10)
	_, err := spy.nc.ChanSubscribe(subject, heard)
	l.must(err)
	l.must(spy.nc.Flush())

	f := l.mesh(access.Principal{Site: "b", Service: "failover"}, nil, nil)
	conn, err := f.Conn("a")
	l.must(err)
	_, err = conn.CompareAndSwap(t.Context(), api.BucketDesired, "group.x", []byte("forged"), 0)
	l.must(err)
	intruder := l.raw(access.Principal{Site: "b", Service: "failover"}, "a")
	l.must(intruder.nc.PublishRequest("$JS.API.DIRECT.GET.KV_"+api.BucketDesired, subject, []byte(`{"last_by_subj":"$KV.HF_DESIRED.group.x"}`)))
	select {
	case m := <-heard: // the server does it: only the voter itself can refuse it
		if string(m.Data) != "forged" {
			t.Fatalf("heard %q", m.Data)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server no longer answers to any subject: the limit in docs/security.md is gone")
	}
	other, err := l.mesh(access.Principal{Site: "b", Service: "quorum"}, nil, nil).Conn("a")
	l.must(err)
	_, err = other.Request(t.Context(), subject, []byte("true"))
	l.must(err)
	if got := <-counted; got != "b.quorum true" {
		t.Fatalf("counted %q", got)
	}
	spoof := nats.NewMsg(subject) // by a quorum service's connection, without its key
	spoof.Data = []byte("unsigned")
	answer, err := l.inbox(access.Principal{Site: "b", Service: "quorum"}, "a").RequestMsg(spoof, 10*time.Second)
	l.must(err)
	if code := answer.Header.Get("Nats-Service-Error-Code"); code != domain.Code(domain.ErrRefused) {
		t.Fatalf("an unsigned vote was answered %q %v", answer.Data, answer.Header)
	}
	select {
	case got := <-counted:
		t.Fatalf("counted %q", got)
	default:
	}
}

// inbox is a plain connection with a principal's own inbox.
func (l *links) inbox(p access.Principal, at domain.SiteID) *nats.Conn {
	l.t.Helper()
	c := l.creds(p)
	nc, err := nats.Connect(l.urls[at], nats.ClientTLSConfig(c.Certificate, c.Roots), nats.CustomInboxPrefix(p.InboxPrefix()),
		nats.UserJWT(func() (string, error) { return c.UserJWT(at) }, c.SignNonce))
	l.must(err)
	l.t.Cleanup(nc.Close)
	return nc
}

// TestAnswersGoToTheCallersInboxAlone: whoever answers may publish to any reply subject, so a caller could name the subject of an
// event there, and have the failover service say what it may not say itself.
func TestAnswersGoToTheCallersInboxAlone(t *testing.T) {
	l := secured(t, "a")
	callers := l.serveRunStart()
	op := access.Principal{Site: "a", Service: access.Operator}
	subject := api.QuerySubject("a", "failover", api.VerbRunStart)
	spy := l.raw(access.Principal{Site: "a", Service: "failover"}, "a")
	heard := make(chan *nats.Msg, 10)
	_, err := spy.nc.ChanSubscribe(subject, heard)
	l.must(err)
	l.must(spy.nc.Flush())
	events := make(chan *nats.Msg, 10)
	reader := l.raw(access.Principal{Site: "a", Service: access.Reader}, "a")
	_, err = reader.nc.ChanSubscribe("hf.v1.evt.>", events)
	l.must(err)
	l.must(reader.nc.Flush())

	// A request signed by the operator and never carried out: it was sent to a service that had no such verb yet.
	honest := l.mesh(op, nil, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := bus.Call[api.Run](ctx, honest.Local(), "failover", api.VerbRunStart, api.RunStartRequest{}); err != nil {
		t.Fatal(err)
	}
	<-callers
	signed := <-heard
	for _, h := range []nats.Header{signed.Header, {}} { // signed (though replayed), and not signed at all
		forged := nats.NewMsg(subject)
		forged.Data, forged.Header, forged.Reply = signed.Data, h, "hf.v1.evt.a.group.erp.promoted"
		l.must(l.inbox(op, "a").PublishMsg(forged))
		<-heard
	}
	// What is asked after it is answered after it.
	if _, err := bus.Call[api.Run](ctx, honest.Local(), "failover", api.VerbRunStart, api.RunStartRequest{}); err != nil {
		t.Fatal(err)
	}
	l.must(reader.nc.Flush())
	select {
	case m := <-events:
		t.Fatalf("the failover service published %s %v for its caller", m.Subject, m.Header)
	default:
	}
}

// TestServerOfAnotherSiteIsNotTaken: a server with good papers of its own site cannot pose as another site's, though every
// certificate here is for 127.0.0.1.
func TestServerOfAnotherSiteIsNotTaken(t *testing.T) {
	l := secured(t, "a", "b")
	l.urls["b"] = l.urls["a"]
	text := &logged{}
	m, err := bus.Dial(bus.Config{Site: "a", Service: "quorum", URLs: l.urls, Credentials: l.creds(access.Principal{Site: "a", Service: "quorum"}),
		Logger: slog.New(slog.NewTextHandler(text, nil))})
	l.must(err)
	defer m.Close()
	l.must(m.Local().AwaitConnected(t.Context()))
	text.await(t, "the server is of another site", "peer=b", "mend=", `of \"a.nats\"`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	conn, _ := m.Conn("b")
	if err := conn.AwaitConnected(ctx); !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), "another site") {
		t.Fatalf("got %v", err)
	}
}

// TestWhatIsNoServiceIsNotTakenForItsAnswer: a stream over a service's subject acknowledges each request that it stores, and read as
// JSON that could pass for an empty success.
func TestWhatIsNoServiceIsNotTakenForItsAnswer(t *testing.T) {
	l := secured(t, "a")
	f := l.raw(access.Principal{Site: "a", Service: "failover"}, "a")
	_, err := f.nc.Subscribe(api.QuerySubject("a", "failover", api.VerbRunStart), func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"stream":"X","seq":1}`))
	})
	l.must(err)
	l.must(f.nc.Flush())
	op := l.mesh(access.Principal{Site: "a", Service: access.Operator}, nil, nil).Local()
	_, err = bus.Call[api.Run](t.Context(), op, "failover", api.VerbRunStart, api.RunStartRequest{Plan: "main"})
	if !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), "no service") {
		t.Fatalf("a receipt was taken for an answer: %v", err)
	}
}

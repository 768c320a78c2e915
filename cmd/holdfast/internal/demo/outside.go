package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// User is one user of a workload whose sites somebody else runs: what the demo's clients do, and what becomes of their
// writes, for tests of sites in containers.
type User struct{ c *client }

// Answer is one append that the user was told is done.
type Answer struct {
	Seq      uint64
	Site     domain.SiteID
	Instance string
	Epoch    domain.Epoch
	At       time.Time // the user's wall clock
}

const userPort = 8080 // of the workload, as the sample files have it

// NewUser makes a user of a name, which it resolves at the authorities (host:port), and who appends once in each pause.
func NewUser(name string, authorities []string, pause time.Duration) *User {
	c := newClient(name, userPort, authorities, 1)
	c.pause = pause
	return &User{c}
}

// NewUserAt is NewUser for one who knows an address of the workload and asks only there.
func NewUserAt(addr string, pause time.Duration) *User {
	c := newClient(addr, userPort, nil, 1)
	c.addr, c.pause = addr, pause
	return &User{c}
}

// Start begins to append, and goes on until stop is called, which returns when the append that is under way has ended.
func (u *User) Start(ctx context.Context) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		u.c.run(ctx, over)
	}()
	return sync.OnceFunc(func() {
		close(over)
		<-ended
	})
}

// Await returns the first answer for which ok holds, waiting for it if need be.
func (u *User) Await(ctx context.Context, ok func(Answer) bool) (Answer, error) {
	a, err := u.c.await(ctx, func(a ack) bool { return ok(answer(a)) })
	return answer(a), err
}

// Answers are all so far.
func (u *User) Answers() []Answer {
	var out []Answer
	for _, a := range u.c.all() {
		out = append(out, answer(a))
	}
	return out
}

func answer(a ack) Answer { return Answer{a.Seq, a.Site, a.Instance, a.Epoch, a.at} }

// Resolve is the first address that one of the authorities has for a name.
func Resolve(ctx context.Context, authorities []string, name string) (string, error) {
	addr, _, err := resolveAt(ctx, authorities, name)
	return addr, err
}

// Judge reads a workload's log from the disks that a site serves and holds it against the ledgers of all its hosts. Nobody
// may append meanwhile.
func Judge(ctx context.Context, lines []ledger.Line, disks []api.Disk) (GroupReport, error) {
	var g GroupReport
	log, err := readDisks(ctx, disks)
	if err != nil {
		return g, err
	}
	judge(&g, lines, log)
	if log.err != nil {
		return g, fmt.Errorf("compare the volumes: %w", log.err)
	}
	return g, nil
}

// Handover is the last sign of life of a VM at one site and the first at another since a moment, on CLOCK_BOOTTIME; zero
// where there is none.
func Handover(lines []ledger.Line, from, to domain.SiteID, since time.Time) (stopped, begun int64) {
	var after []ledger.Line
	for _, l := range lines {
		if l.WallNS >= since.UnixNano() {
			after = append(after, l)
		}
	}
	return handover(after, from, to)
}

package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/pool"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// runPool serves every volume of a pool, and the commands that work on it. Its first line on stdout is the portal's URL,
// then comes one line for each volume there is.
func runPool(ctx context.Context, o Options, ln net.Listener, guard target.Guard, cfg target.Config, stdout io.Writer) (err error) {
	if o.File != "" || o.Size != "" || o.Durability != "" {
		return fmt.Errorf("--pool serves the pool's volumes: give no FILE, --size or --durability, which are set by `holdfast volume create`: %w", domain.ErrInvalid)
	}
	if o.NBD.Listen != "" {
		return fmt.Errorf("--nbd serves a FILE, not a pool: %w", domain.ErrInvalid)
	}
	mode, err := blockfile.ParseMode(o.IO)
	if err != nil {
		return err
	}
	front := &portal{srv: target.New(cfg), addr: reachable(ln.Addr()), guard: guard}
	p, err := pool.Open(o.Pool, pool.Options{Create: true, Front: front, Log: cfg.Log, IO: mode})
	if err != nil {
		return err
	}
	front.name = p.TargetName
	defer func() { err = errors.Join(err, p.Close()) }()
	p.ServeAll()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- p.ServeControl(ctx, func() { close(ready) })
		cancel()
	}()
	select {
	case <-ready:
		err = announce(ctx, p, front, stdout)
	case err = <-ended:
		return err
	}
	if err == nil {
		defer context.AfterFunc(ctx, p.Unlimit)() // what a limit holds back would hold up the end
		err = front.srv.Serve(ctx, ln)
	}
	cancel()
	return errors.Join(err, <-ended)
}

func announce(ctx context.Context, p *pool.Pool, front *portal, stdout io.Writer) error {
	all, err := p.Do(ctx, pool.Request{Verb: pool.VerbList})
	if err != nil {
		return err
	}
	text := "iscsi://" + front.addr + "\n"
	for _, v := range all.Volumes {
		if v.URL != "" {
			text += v.URL + "\n"
		}
	}
	if _, err := io.WriteString(stdout, text); err != nil {
		return fmt.Errorf("print the URLs: %w", err)
	}
	return nil
}

// portal gives each volume a target of its own.
type portal struct {
	srv   *target.Server
	addr  string
	guard target.Guard
	name  func(volume string) string
}

// Add implements pool.Front.
func (f *portal) Add(name string, u target.Unit) error {
	return f.srv.AddGuarded(f.name(name), map[int]target.Unit{lunNumber: u}, f.guard)
}

// Remove implements pool.Front.
func (f *portal) Remove(name string) error { return f.srv.RemoveIdleTarget(f.name(name)) }

// URL implements pool.Front.
func (f *portal) URL(name string) string {
	return fmt.Sprintf("iscsi://%s/%s/%d", f.addr, f.name(name), lunNumber)
}

// Sessions implements pool.Front.
func (f *portal) Sessions(name string) int {
	n := 0
	for _, s := range f.srv.Sessions() {
		if s.Target == f.name(name) {
			n++
		}
	}
	return n
}

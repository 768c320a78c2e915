package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/nbd"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// NBD is the volume's second door. The zero value leaves it shut.
type NBD struct {
	// Listen is host:port or unix:PATH.
	Listen string
	// TLS files make TLS required; with an authority, clients need a certificate of it.
	TLS nbd.TLSFiles
	// Insecure lets clients of other machines in that prove nothing; with TLS files, TLS is optional then.
	Insecure bool
}

// nbdFront is the open door.
type nbdFront struct {
	srv *nbd.Server
	ln  net.Listener
	uri string
}

// listenNBD opens the door's listener; nil when there is to be none. NBD knows no login: whoever reaches it has the disk. So
// other machines need a client certificate.
func listenNBD(ctx context.Context, o NBD, log *slog.Logger) (*nbdFront, error) {
	if o.Listen == "" {
		if o != (NBD{}) {
			return nil, fmt.Errorf("NBD options without --nbd: give --nbd ADDR too, or none of them: %w", domain.ErrInvalid)
		}
		return nil, nil
	}
	cfg := nbd.Config{Log: log}
	if o.TLS != (nbd.TLSFiles{}) {
		if o.TLS.Cert == "" || o.TLS.Key == "" {
			return nil, fmt.Errorf("NBD with TLS needs a certificate and its key: give --nbd-tls-cert and --nbd-tls-key: %w", domain.ErrInvalid)
		}
		var err error
		if cfg.TLS, err = nbd.LoadTLS(o.TLS); err != nil {
			return nil, err
		}
		cfg.RequireTLS = !o.Insecure
	}
	ln, err := nbd.Listen(ctx, o.Listen)
	if err != nil {
		return nil, err
	}
	if !nbd.Local(ln.Addr()) && o.TLS.CA == "" && !o.Insecure {
		return nil, errors.Join(fmt.Errorf("NBD on %s: other machines reach it, and NBD has no login: give --nbd-tls-cert, --nbd-tls-key and --nbd-tls-ca, "+
			"or listen on 127.0.0.1 or unix:PATH, or accept anyone with --nbd-insecure: %w", ln.Addr(), domain.ErrInvalid), ln.Close())
	}
	return &nbdFront{srv: nbd.New(cfg), ln: ln}, nil
}

// export serves u under the file's name.
func (f *nbdFront) export(file string, u target.Unit, secure bool) error {
	name := filepath.Base(file)
	if err := f.srv.AddExport(name, u); err != nil {
		return err
	}
	_, unix := f.ln.Addr().(*net.UnixAddr)
	f.uri = nbd.URI(reachable(f.ln.Addr()), unix, secure, name)
	return nil
}

// serveBoth serves at both doors until ctx ends or one of them fails, which shuts the other.
func serveBoth(ctx context.Context, iscsi func(context.Context) error, f *nbdFront) error {
	if f == nil {
		return iscsi(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- f.srv.Serve(ctx, f.ln)
	}()
	err := iscsi(ctx)
	cancel()
	return errors.Join(err, <-ended)
}

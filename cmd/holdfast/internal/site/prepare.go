package site

import (
	"context"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/config"
)

const (
	prepareWithin = 20 * time.Second
	prepareAgain  = 100 * time.Millisecond
	refusalsStand = 5 * time.Second // a server that still refuses then is not in the middle of its own start
)

// prepare makes the site's streams and buckets before any service wants them. A server that has just opened an account for its
// first client looks whether the account's folder can be made, and takes it away again; a stream that is made at that moment
// fails for want of the folder. So what the server refuses is asked again, for a short while.
func prepare(ctx context.Context, cfg config.Config, o Options) error {
	mesh, err := dial(cfg, api.ServiceQuorum, o.Logger) // who may make them
	if err != nil {
		return err
	}
	defer mesh.Close()
	if err := mesh.Local().AwaitConnected(ctx); err != nil {
		return err
	}
	pctx, cancel := context.WithTimeout(ctx, prepareWithin)
	defer cancel()
	for since := time.Now(); ; {
		err := mesh.Local().EnsureAssets(pctx)
		if err == nil || time.Since(since) > refusalsStand {
			return err
		}
		select {
		case <-time.After(prepareAgain):
		case <-pctx.Done():
			return err
		}
	}
}

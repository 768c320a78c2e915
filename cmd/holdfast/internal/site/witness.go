package site

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

// RunWitness runs a witness service until ctx ends, which is loss of power.
func RunWitness(ctx context.Context, cfg config.Witness, o Options) error {
	wc, err := witnessConfig(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the state folder of the witness: %w", err)
	}
	wc.MirrorDir = voterMemory(config.Config{Cluster: "witness", Site: "all", DataDir: cfg.DataDir, RunDir: cfg.RunDir}, o.Logger)
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("start witness on %s: %w: free the port, or set listen to another", cfg.Listen, err)
	}
	return witness.Run(ctx, wc, witness.Deps{Listener: ln, Logger: o.Logger})
}

func witnessConfig(cfg config.Witness) (witness.Config, error) {
	out := witness.Config{Dir: cfg.DataDir}
	if st, err := os.Stat(cfg.Key); err == nil && st.Mode().Perm()&0o077 != 0 {
		return out, fmt.Errorf("%s has mode %04o: %w: others may read it; chmod 600 %s", cfg.Key, st.Mode().Perm(), domain.ErrRefused, cfg.Key)
	}
	var err error
	if out.Certificate, err = tls.LoadX509KeyPair(cfg.Certificate, cfg.Key); err != nil {
		return out, fmt.Errorf("read the witness' certificate: %w: %w: holdfast witness init makes one", domain.ErrInvalid, err)
	}
	for _, c := range cfg.Clusters {
		ca, err := os.ReadFile(c.CA)
		if err != nil {
			return out, fmt.Errorf("cluster %s: read its authority: %w: %w: give a copy of secrets/trust/ca.pem of one of its sites", c.Name, domain.ErrInvalid, err)
		}
		q := witness.DefaultQuota()
		for to, from := range map[*int]int{&q.Groups: c.Quota.Groups, &q.Votes: c.Quota.VotesPerSecond, &q.Bytes: int(c.Quota.BytesPerSecond), &q.Connections: c.Quota.Connections} {
			if from > 0 {
				*to = from
			}
		}
		out.Clusters = append(out.Clusters, witness.Cluster{Name: c.Name, CA: ca, Quota: q})
	}
	return out, nil
}

package natsd

import (
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/conf"
)

const followEvery = time.Second

// follow reloads the configuration when it, or a certificate that it names, has changed: connections that are up stay up.
func (s *Server) follow(cfg Config) {
	defer close(s.ended)
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("site", string(cfg.Site))
	seen := stamps(cfg.Conf)
	t := time.NewTicker(followEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		now := stamps(cfg.Conf)
		if now == seen {
			continue
		}
		next, err := options(cfg)
		if err == nil {
			err = s.srv.ReloadOptions(next)
		}
		if err != nil { // a certificate without its key yet, perhaps: again at the next tick
			log.Warn("NATS server keeps its configuration: the changed one cannot be used yet", "conf", cfg.Conf, "error", err)
			continue
		}
		seen = now
		log.Info("NATS server reloaded its configuration", "conf", cfg.Conf)
	}
}

type stamp struct {
	size int64
	mod  time.Time
}

// stamps tells changed files from the ones read: the configuration, and the certificate, key and CA it names.
func stamps(path string) [4]stamp {
	files := [4]string{path}
	if all, err := conf.ParseFile(path); err == nil {
		if tls, ok := all["tls"].(map[string]any); ok {
			for i, k := range []string{"cert_file", "key_file", "ca_file"} {
				files[i+1], _ = tls[k].(string)
			}
		}
	}
	var out [4]stamp
	for i, f := range files {
		if st, err := os.Stat(f); err == nil {
			out[i] = stamp{st.Size(), st.ModTime()}
		}
	}
	return out
}

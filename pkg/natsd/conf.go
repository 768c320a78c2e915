package natsd

import (
	"fmt"
	"net"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// ConfFiles says where a site's NATS server finds its things, as seen by the server: in a container, the container's paths.
type ConfFiles struct {
	Listen   string // host:port
	Monitor  string // host:port of the server's own monitoring page (/healthz); empty: none
	StoreDir string // JetStream's files
	Cert     string // secrets/nats/server.pem
	Key      string // secrets/nats/server.key
	CA       string // secrets/trust/ca.pem
}

// Conf renders the configuration of a site's NATS server: as nats.conf for nats-server, or for Start. It holds no secret. It
// changes with the installation (accounts, revocations): render it again after identity.Install, and let the server reload
// it (SIGHUP; Start's does so by itself).
func Conf(inst identity.Installation, site domain.SiteID, f ConfFiles) (string, error) {
	own, ok := inst.Site(site)
	if !ok {
		return "", fmt.Errorf("render NATS configuration: %w: site %s is not in the installation", domain.ErrNotFound, site)
	}
	if _, _, err := net.SplitHostPort(f.Listen); err != nil {
		return "", fmt.Errorf("render NATS configuration: listen %q: %w: want host:port", f.Listen, domain.ErrInvalid)
	}
	sys, ok := own.Account(access.AccountSystem)
	if !ok {
		return "", fmt.Errorf("render NATS configuration: %w: the installation has no account %s", domain.ErrInvalid, access.AccountSystem)
	}
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line("# NATS server of site %s, installation %q, serial %d. Written by holdfast: changes are lost.", site, inst.Cluster, inst.Serial)
	line("server_name: %s", quote(serverName(site)))
	line("listen: %s", quote(f.Listen))
	if f.Monitor != "" {
		line("http: %s", quote(f.Monitor))
	}
	line("max_control_line: %d # a user's token, with its permissions, is in one", maxControlLineBytes)
	line("max_payload: %d\nmax_pending: %d", maxPayloadBytes, maxPendingBytes)
	line("ping_interval: \"2s\"\nping_max: 2\nwrite_deadline: \"10s\"")
	line("max_closed_clients: %d", closedClients)
	line("jetstream {\n  domain: %s\n  store_dir: %s\n  sync_interval: always\n  max_memory_store: %d\n  max_file_store: %d\n}",
		quote(string(site)), quote(f.StoreDir), int64(maxMemoryBytes), int64(maxStoreBytes))
	line("tls {\n  cert_file: %s\n  key_file: %s\n  ca_file: %s\n  verify: true\n  timeout: 5\n}", quote(f.Cert), quote(f.Key), quote(f.CA))
	line("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload {", inst.Operator, sys.Key)
	for _, a := range own.Accounts {
		line("  # %s\n  %s: %s", a.Name, a.Key, a.JWT)
	}
	line("}")
	return b.String(), nil
}

func serverName(site domain.SiteID) string { return "holdfast-" + string(site) }

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

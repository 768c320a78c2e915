// Package sitefolder makes and keeps the folder of one site: its configuration, its compose file, its keys and
// certificates, and what it knows of the installation. Private keys are made where they are used and never leave; what
// travels between sites (cards, the installation file) is public.
//
//	DIR/docker-compose.yml .env          the site's containers
//	DIR/grafana/                         alerts and a dashboard, for the profile observability
//	DIR/config/site.yaml nats.conf       the site's configuration, and its NATS server's
//	DIR/secrets/trust/                   whom the site trusts: ca.pem, installation.json
//	DIR/secrets/nats/                    the NATS server's key and certificate
//	DIR/secrets/<principal>/             one folder for each that connects: client.key, client.pem, user.creds
//	DIR/secrets/chap/secret              with which VM hosts log in to a data site's volumes
//	DIR/ca/                              only where the installation was made: what signs
//	DIR/data/                            state
package sitefolder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Folder is the path of a site's folder.
type Folder string

func (f Folder) path(parts ...string) string {
	return filepath.Join(append([]string{string(f)}, parts...)...)
}

// Config is the site's configuration file.
func (f Folder) Config() string { return f.path("config", "site.yaml") }

// NATSConf is the configuration of the site's NATS server.
func (f Folder) NATSConf() string { return f.path("config", "nats.conf") }

// Secrets is the folder of keys, certificates and credentials.
func (f Folder) Secrets() string { return f.path("secrets") }

// CHAP is the file with the secret of the site's iSCSI logins.
func (f Folder) CHAP() string { return f.path("secrets", "chap", "secret") }

// CA is the folder of what signs; it exists only where the installation was made.
func (f Folder) CA() string { return f.path("ca") }

// Installation is the installation file as this site trusts it.
func (f Folder) Installation() string { return f.path("secrets", "trust", "installation.json") }

// Outgoing is the installation file that the founder hands to the others.
func (f Folder) Outgoing() string { return f.path("installation.json") }

// Card is the site's card.
func (f Folder) Card(site domain.SiteID) string { return f.path(string(site) + ".card.json") }

// open checks that a folder is one that holdfast site init made.
func open(dir string) (Folder, error) {
	f := Folder(filepath.Clean(dir))
	_, err := os.Stat(f.Config())
	if errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("open the site's folder %s: %w: it has no config/site.yaml: name the folder that holdfast site init made", dir, domain.ErrInvalid)
	}
	if err != nil {
		return f, fmt.Errorf("open the site's folder %s: %w", dir, err)
	}
	return f, nil
}

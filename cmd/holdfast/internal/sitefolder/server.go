package sitefolder

import (
	"fmt"
	"net"
	"path"
	"path/filepath"
	"strconv"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// containerRoot is where containers see the site's folder.
const containerRoot = "/site"

// renderServer makes config/nats.conf: the site's server with the accounts of an installation. Its paths are the server's:
// those of the container, or of this machine when the server is embedded.
func (f Folder) renderServer(cfg config.Config, inst identity.Installation) ([]byte, error) {
	root, listen := containerRoot, net.JoinHostPort("0.0.0.0", strconv.Itoa(defaultPort))
	if cfg.NATS.Listen != "" {
		var err error
		if root, err = filepath.Abs(string(f)); err != nil {
			return nil, fmt.Errorf("write nats.conf: %w", err)
		}
		listen = cfg.NATS.Listen
	}
	text, err := natsd.Conf(inst, cfg.Site, natsd.ConfFiles{
		Listen: listen, StoreDir: path.Join(root, "data/nats"),
		Cert: path.Join(root, "secrets/nats/server.pem"), Key: path.Join(root, "secrets/nats/server.key"), CA: path.Join(root, "secrets/trust/ca.pem"),
	})
	return []byte(text), err
}

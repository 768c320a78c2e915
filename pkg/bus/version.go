package bus

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

// versionHeader carries the protocol version of every request and reply. Each side refuses another major version: the one that
// answers before it looks at the request, the one that asks before it looks at the reply.
const versionHeader = "Hf-Version"

func (c *Conn) stamp(h nats.Header) { h.Set(versionHeader, c.version.String()) }

// accept refuses what speaks another major version, and logs it once for each version seen.
func (c *Conn) accept(subject string, h nats.Header) error {
	theirs := h.Get(versionHeader)
	err := c.version.Accepts(theirs)
	if err == nil {
		return nil
	}
	if _, said := c.refused.LoadOrStore(theirs, true); !said {
		c.log.Error("peer refused for its protocol version", "subject", subject, "theirs", theirs, "ours", c.version.String(), "error", err)
	}
	return fmt.Errorf("%s at site %s: %w", subject, c.site, err)
}

func versionOr(v api.Version) api.Version {
	if v == (api.Version{}) {
		return api.Protocol()
	}
	return v
}

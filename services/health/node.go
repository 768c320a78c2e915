package health

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// Kinds of node in a heartbeat that are more than a service.
const (
	nodeReplicator = "replicator"
	nodeHost       = "host"
)

// hostOf is the host whose agent a node is.
func hostOf(node string) string { return strings.TrimPrefix(node, "host-") }

// nodeKeys is what a node's heartbeat vouches for. A host's agent vouches for the host and for itself: the host may live on
// without it.
func nodeKeys(hb api.Heartbeat) []key {
	k := key{kind: assess.KindService, id: hb.Node, site: hb.Site, path: assess.PathHeartbeat}
	switch hb.Kind {
	case nodeReplicator:
		k.kind = assess.KindReplicator
	case nodeHost:
		k.id = api.HostService(domain.HostID(hostOf(hb.Node)))
		return []key{hostKey(hostOf(hb.Node), hb.Site, assess.PathHeartbeat), k}
	}
	return []key{k}
}

func hostKey(id string, site domain.SiteID, path string) key {
	return key{kind: assess.KindHost, id: id, site: site, path: path}
}

// readHeartbeat checks a heartbeat against the subject it came on and the sites that exist.
func readHeartbeat(sites []Site, subject string, data []byte) (api.Heartbeat, error) {
	var hb api.Heartbeat
	if err := json.Unmarshal(data, &hb); err != nil {
		return hb, fmt.Errorf("decode heartbeat %s: %w", subject, err)
	}
	if !domain.ValidToken(hb.Node) || subject != api.HeartbeatSubject(hb.Site, hb.Node) {
		return hb, fmt.Errorf("heartbeat %s: %w: it says site %q node %q", subject, domain.ErrInvalid, hb.Site, hb.Node)
	}
	for _, s := range sites {
		if s.ID == hb.Site {
			return hb, nil
		}
	}
	return hb, fmt.Errorf("heartbeat %s: %w: no such site", subject, domain.ErrNotFound)
}

// Package grafana holds what the observability profile of a site's compose file mounts: the configuration and the alerts of
// Prometheus, the dashboard and the provisioning of Grafana. It wires nothing.
package grafana

import "embed"

//go:embed prometheus provisioning dashboards
var files embed.FS

// Files are the folders prometheus, provisioning and dashboards.
func Files() embed.FS { return files }

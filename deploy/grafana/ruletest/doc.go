// Package ruletest holds the alerts and the dashboard to PromQL's own parser and engine, and to the catalogue of metrics. It
// is a module of its own, outside the workspace: Prometheus is far heavier than the product.
package ruletest

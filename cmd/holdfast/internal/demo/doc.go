// Package demo is the all-in-one: three sites (a and b hold data, w only votes) in one process or one process each, a
// network between them that can be cut, a workload that one can see, and scenarios that break things and prove what was
// kept. What the report says of writes comes from the workloads' own logs and ledgers and from the disk that was promoted,
// never from what the services believe.
package demo

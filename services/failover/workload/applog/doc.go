// Package applog is the checksummed append log that a workload keeps on its disk, and the proof read from it: encode,
// decode and scan, with no clock and no goroutine.
//
// # Layout
//
//	0        header slot 0 (512 bytes used)
//	4096     header slot 1
//	8192     record 1, record 2, ... of RecordSize bytes each; record n is at DataOffset + (n-1)*RecordSize
//
// The header is written again at each boot with the next generation, into slot generation mod 2, so that a torn header
// write leaves the one before it. A record carries the SHA-256 of the record before it, so that a record lost,
// reordered or taken from another history breaks the chain.
//
// # What a scan may find
//
// The writer makes each record durable before it begins the next one. So after any crash, and in any replica that is a
// prefix of the write order, the log is records 1..n, at most one torn record after them, and nothing beyond.
// Anything else is a broken prefix, and Report says where.
package applog

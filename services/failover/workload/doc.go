// Package workload is the small real program that stands for a virtual machine: it keeps a checksummed append log on its
// disks and answers HTTP, so that a failover is something one can see and check. The embedded driver runs it in the
// host agent's process on iSCSI disks; inside a QEMU guest it runs on a file.
//
// # An append
//
//	POST /append -> gate -> record on volume 0, durable -> on volume 1, durable -> ... -> clock, gate, ledger line -> answer
//
// One append at a time, so that after any crash the volumes hold a prefix of the write order: the last sequences never
// rise from volume to volume and differ by at most one. At boot the log is scanned, an append that a crash cut between
// two volumes is completed, and the log goes on. A log that is not a prefix, or that was written under a higher epoch
// than the VM is started with, is not touched: the VM refuses to boot.
//
// # When it stops
//
// The gate says whether the VM may serve now; it is asked again right before an acknowledgement, since the lease may
// have ended while the write was on its way. A disk error is the end of the VM: what is on the disk is then found out
// by the next boot. The end of the context is loss of power: nothing more is written, acknowledged or logged.
package workload

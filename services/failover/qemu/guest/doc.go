// Package guest is both sides of the Linux guest that the QEMU driver boots: the initrd that is made for it, the program
// that is its PID 1, the file system on its disks, and the check of a disk after the fact.
//
// The guest is Debian's cloud kernel and an initrd whose /init is a copy of the running binary: it loads the virtio
// modules, mounts the ext4 file system of each disk and runs the same workload as the embedded driver, on a file that it
// fsyncs. Nothing else is needed at run time; busybox is put beside it, when there is one, for a person to look around.
// A binary that is linked dynamically takes its libraries along. Where the host has the QEMU guest agent (package
// qemu-guest-agent), the guest runs it, so that its file systems can be frozen for a checkpoint.
//
// # Console
//
// The guest's console is the host's evidence. Lines that begin with HF- are for the driver:
//
//	HF-READY lastseq                   the service listens
//	HF-ACK seq clock_ns hash bytes     an append is about to be acknowledged; clock_ns is the guest's CLOCK_BOOTTIME
//	HF-FAIL text                       the guest gives up, and powers off
//	HF-OFF                             file systems are unmounted, the power goes
//
// A line is on the wire before the answer it announces is sent. In the other direction "poweroff" ends the guest.
package guest

// Package initiators is the end-to-end suite of the storage front with initiators that others wrote: QEMU's, libvirt's way to
// it, and the Linux kernel's. It is all tests: with the tag e2e, against the binary that task build makes.
//
// Each test serves a volume with `holdfast volume serve`, boots a Debian kernel in QEMU (in software emulation), and works in
// the guest through a serial line: a command goes in, what it prints and its exit status come out. The guest's programs are
// the machine's own, with their libraries, in an initrd; its init is a script.
package initiators

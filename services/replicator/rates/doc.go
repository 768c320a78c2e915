// Package rates records how much a group writes: by the second for an hour, by the minute for a week.
//
// The write path only adds to three counters and marks blocks in a sketch, once a frame and without locks or memory: Frame.
// Everything else happens once a second in Run, which moves what was counted into two rings and puts the slot it changed into
// a file of fixed size. The file is not flushed: it outlives the process, and a loss of power costs what the system had not
// written yet. A slot carries its own date and checksum, so one that is old or torn is no slot. A file that cannot be used
// costs the history and nothing else: no write waits for it, or fails with it.
//
// Only a primary records. A stretch without slots was not recorded; a second without writes has a slot that says so.
package rates

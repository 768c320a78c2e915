//go:build race

package nbd

// raceEnabled: the detector has pools forget what they hold.
const raceEnabled = true

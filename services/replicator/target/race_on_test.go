//go:build race

package target

// raceEnabled: the detector has pools forget what they hold.
const raceEnabled = true

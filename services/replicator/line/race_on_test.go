//go:build race

package line

// raceEnabled: the detector allocates.
const raceEnabled = true

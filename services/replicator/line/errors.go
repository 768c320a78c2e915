package line

import "errors"

var (
	errVersion = errors.New("a hello of another version")
	// errClosed is why a line ended that its owner closed.
	errClosed = errors.New("closed here")
)

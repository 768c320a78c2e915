package journal

import "github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"

// FS is the file system a journal lives on.
type FS = vfs.FS

// OS is the machine's file system: O_DIRECT and O_DSYNC where it can.
func OS() FS { return vfs.OS() }

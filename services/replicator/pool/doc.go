// Package pool is a folder of volumes that one process serves: they are made, grown, frozen, cloned and deleted while
// initiators use them, or while nothing runs.
//
//	pool.json            the pool's id
//	lock                 held by the process that works on the pool
//	control.sock         how commands reach the process that serves it
//	volumes/NAME.json    a volume or snapshot: its settings and the layer it is
//	volumes/ID.kept      the persistent reservations of the volume of that id
//	layers/ID.json       a layer: its parent, its size
//	layers/ID.data, .map its blocks (package layer)
//	layers/ID.live       what of the map is not durable yet, for this boot of the machine
//
// # What survives a power cut
//
// A record is written beside its place, flushed, renamed and its folder flushed; it has a checksum. Every operation is a
// sequence of such steps after any of which the pool is whole: a layer's files are durable before its record, and its record
// before that of the volume that begins to use it; a volume's record is gone before its layers are. What a cut left unused is
// removed when the pool is opened next.
//
//	create    layer, volume
//	snapshot  new layer over the old one; the volume moves to the new one (while no change is in flight, the old one
//	          durable); the snapshot names the old one
//	clone     snapshot without a name, if it is of a volume; new layer; the new volume
//	delete    the name; layers that nobody reaches; then layers that have no name and one reader are merged (layer.Merge)
//	grow      files, layer
//	shrink    layer, files
//
// A record that cannot be read is an error of that volume alone; while there is one, nothing is removed.
package pool

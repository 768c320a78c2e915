package target

import "github.com/holdfast-dr/holdfast/pkg/iscsi"

// watchSizes hears of units that grow. A size that changed between the unit's first description and now is told too.
func (t *tgt) watchSizes() {
	for _, l := range t.luns {
		if r, ok := l.unit.(Resizer); ok {
			r.OnResize(func() { t.resized(l) })
			t.resized(l)
		}
	}
}

func (t *tgt) unwatchSizes() {
	for _, l := range t.luns {
		if r, ok := l.unit.(Resizer); ok {
			r.OnResize(nil)
		}
	}
}

// resized takes a unit's new size over and tells every session of it. The size is set first: whoever asks because of the
// unit attention is told the new one.
func (t *tgt) resized(l *lun) {
	size := uint64(l.unit.Info().SizeBytes) / BlockSize
	if l.blocks.Swap(size) == size {
		return
	}
	for _, ss := range t.list() {
		ss.addUA(l.number, iscsi.ASCCapacityChanged)
	}
}

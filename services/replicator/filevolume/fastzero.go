package filevolume

// FastZero says whether zeroing a range never means writing it: whether the store says so.
func (v *Volume) FastZero(hole bool) bool {
	s, ok := v.store.(interface{ FastZero(hole bool) bool })
	return ok && s.FastZero(hole)
}

package detect

import "math"

// maxWindow bounds Params.Window: a detector keeps a byte for each remembered answer.
const maxWindow = 1024

// prior is how many answers the assumption of a clean link weighs. A few losses at the beginning, or one burst, move the
// judgement little; the default window of 256 moves it most of the way.
const prior = 32

// history is what a link's answers were like lately: how many beats were missed before each. It is bounded; it holds nothing
// of outages, which are no property of the link, and nothing of before a restart.
type history struct {
	gaps   []uint8 // a ring
	next   int
	lost   int // beats missed, of all that are remembered
	breaks int // answers that came after one missed beat or more
}

// add remembers an answer that came after so many missed beats.
func (h *history) add(window, missed int) {
	if window == 0 {
		return
	}
	m := uint8(min(missed, math.MaxUint8))
	if len(h.gaps) < window {
		h.gaps = append(h.gaps, m)
	} else {
		h.count(h.gaps[h.next], -1)
		h.gaps[h.next] = m
		h.next = (h.next + 1) % window
	}
	h.count(m, 1)
}

func (h *history) count(missed uint8, by int) {
	if missed > 0 {
		h.lost += by * int(missed)
		h.breaks += by
	}
}

// again is the chance that after a missed beat, or an answer, the next beat is missed too, never below clean: the greater of
// how often any beat was, and how often one was that followed a missed one (which tells bursts from single losses).
func (h *history) again(clean float64) float64 {
	lost, breaks, answers := float64(h.lost), float64(h.breaks), float64(len(h.gaps))
	any := (lost + prior*clean) / (answers + lost + prior)
	after := (lost - breaks + prior*clean) / (lost + prior)
	return max(clean, any, after)
}

// beats is how many missed in a row make suspicion reach phi on this link, at least as many as on a clean one (of at beats)
// and at most late.
func (h *history) beats(phi float64, at, late int) int {
	clean := math.Pow(10, -phi/float64(at))
	need := math.Ceil(-phi/math.Log10(h.again(clean)) - 1e-9)
	return min(max(at, int(need)), max(at, late))
}

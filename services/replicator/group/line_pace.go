package group

import "time"

// linePace says when a line to a target is tried again. Each time that the target is not reached by it the wait doubles, up to
// Timing.LineUnreached. So does another wait, up to Timing.LineMute, each time that it is reached and nothing comes by it: a stream had begun
// again for that, and broke off. It is told the time, and reads no clock.
type linePace struct {
	timing    Timing
	notBefore time.Time
	unreached time.Duration // the last wait since it was reached; 0: none
	mute      time.Duration // the last wait since it carried for long; 0: none
}

// wait is how long it is until the line may be tried; 0: it may be now.
func (p *linePace) wait(now time.Time) time.Duration { return max(0, p.notBefore.Sub(now)) }

// isUnreached notes that the target was not reached by the line.
func (p *linePace) isUnreached(now time.Time) {
	p.unreached = p.doubled(p.unreached, p.timing.LineUnreached)
	p.notBefore = now.Add(p.unreached)
}

// isMute notes that a line was opened and nothing came by it, or that where it leads nobody knows a token that was just given.
func (p *linePace) isMute(now time.Time) {
	p.unreached, p.mute = 0, p.doubled(p.mute, p.timing.LineMute)
	p.notBefore = now.Add(p.mute)
}

// isOpen notes that the target was reached. Whether anything comes by the line is not known yet.
func (p *linePace) isOpen() { p.unreached = 0 }

// carried notes for how long a line that has ended did what it is for.
func (p *linePace) carried(d time.Duration) {
	if d >= p.timing.LineMute {
		p.mute = 0
	}
}

// begin forgets what was: the line leads elsewhere now.
func (p *linePace) begin() { p.notBefore, p.unreached, p.mute = time.Time{}, 0, 0 }

func (p *linePace) doubled(last, most time.Duration) time.Duration {
	return min(max(2*last, p.timing.LineAgain), max(most, p.timing.LineAgain))
}

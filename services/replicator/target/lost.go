package target

import "time"

// maxLostWait bounds how long a login waits for a former session of its initiator whose connection is closed.
const maxLostWait = 2 * time.Second

// awaitLost waits for the sessions of an initiator whose connections it has closed, of whatever ISID: what they held, a
// reservation or the medium, is given up before the initiator is let in again. Without that it would depend on which of two
// goroutines the close and the login reach first. One whose commands the unit does not finish is waited for in vain.
func (t *tgt) awaitLost(ss *session) {
	limit := time.NewTimer(maxLostWait)
	defer limit.Stop()
	for _, have := range t.list() {
		if have.initiator != ss.initiator || have.isid == ss.isid || !have.conn.socket.peerClosed() {
			continue
		}
		select {
		case <-have.gone:
		case <-limit.C:
			return
		}
	}
}

package qemu

import (
	"bufio"
	"encoding/json"
	"net"
	"sync"
)

// monitor speaks QMP (the QEMU Machine Protocol) as far as the driver needs: it sends commands without waiting for
// their replies, and hands out events.
type monitor struct {
	conn net.Conn

	mu sync.Mutex
}

type qmpMessage struct {
	Event string `json:"event"`
	Data  struct {
		Reason string `json:"reason"`
		Error  string `json:"error"`
		ID     string `json:"id"`   // of a device
		Open   bool   `json:"open"` // a port: by the guest
	} `json:"data"`
	Error *struct {
		Desc string `json:"desc"`
	} `json:"error"`
}

// follow reads until the connection ends, calling f for each event.
func (m *monitor) follow(f func(qmpMessage)) {
	m.send("qmp_capabilities")
	s := bufio.NewScanner(m.conn)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var msg qmpMessage
		if json.Unmarshal(s.Bytes(), &msg) == nil && (msg.Event != "" || msg.Error != nil) {
			f(msg)
		}
	}
}

func (m *monitor) send(command string) {
	b, err := json.Marshal(map[string]string{"execute": command})
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = m.conn.Write(append(b, '\n')) // a QEMU that is gone is noticed by its exit
}

package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// feed gives a new connection b and its end, and waits until it is gone: it must end or answer, never panic, and give all
// memory back.
func feed(t *testing.T, b []byte, run func(*conn)) {
	s := New(Config{HandshakeTimeout: 5 * time.Second, PayloadTimeout: 5 * time.Second})
	if err := s.AddExport(testExport, newMemUnit(1<<20)); err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	c := newConn(s, theirs)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(c)
	}()
	go io.Copy(io.Discard, ours) // it ends with the pipe
	_ = ours.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, _ = ours.Write(b)
	_ = ours.Close()
	<-ended
	if s.budget.free != s.cfg.MaxBufferedBytes {
		t.Fatalf("%d bytes were never given back", s.cfg.MaxBufferedBytes-s.budget.free)
	}
}

func optionBytes(opt uint32, data string) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, opt)
	return append(b, lv(data)...)
}

func requestBytes(typ, flags uint16, off uint64, n uint32, data int) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint64(b, 7)
	b = binary.BigEndian.AppendUint64(b, off)
	b = binary.BigEndian.AppendUint32(b, n)
	return append(b, make([]byte, data)...)
}

// FuzzHandshake is a client that says whatever it likes after the greeting.
func FuzzHandshake(f *testing.F) {
	seed := func(parts ...[]byte) { f.Add(bytes.Join(append([][]byte{{0, 0, 0, 3}}, parts...), nil)) }
	seed(optionBytes(optExportName, testExport), requestBytes(cmdRead, 0, 0, 512, 0))
	seed(optionBytes(optList, ""), optionBytes(optAbort, ""))
	seed(optionBytes(optStructuredReply, ""), optionBytes(optListMetaContext, contextData("", "base:")), optionBytes(optSetMetaContext, contextData(testExport, contextAllocation)),
		optionBytes(optInfo, goData(testExport, infoName, infoBlockSize)), optionBytes(optGo, goData(testExport)), requestBytes(cmdBlockStatus, 0, 0, 4096, 0))
	seed(optionBytes(optStartTLS, ""), optionBytes(99, "data"))
	seed(optionBytes(optGo, "\xff\xff\xff\xff"), optionBytes(optSetMetaContext, lv("x")+"\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) { feed(t, b, func(c *conn) { c.serve() }) })
}

// FuzzRequests is a client that sends whatever it likes once it has its export.
func FuzzRequests(f *testing.F) {
	for typ := uint16(0); typ < 9; typ++ {
		data := 0
		if typ == cmdWrite {
			data = 1024
		}
		f.Add(append(requestBytes(typ, flagFUA, 512, 1024, data), requestBytes(cmdDisc, 0, 0, 0, 0)...))
	}
	f.Add(requestBytes(cmdWrite, 0, 0, maxPayload+1, 100))
	f.Add(requestBytes(cmdWriteZeroes, flagNoHole, 0, 1<<20, 0))
	f.Add(append(requestBytes(cmdWrite, 0, 1, 512, 512), requestBytes(cmdRead, flagDF, 1<<63, 512, 0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		feed(t, b, func(c *conn) {
			if err := c.open(c.srv.find(testExport), true); err != nil {
				t.Error(err)
				return
			}
			c.structured, c.allocation, c.out.copyBelow = true, true, copyBelow
			_ = c.transmission()
			c.exp.leave(c)
		})
	})
}

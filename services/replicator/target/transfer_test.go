package target

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func TestDataTravelsInEveryWayThatWasNegotiated(t *testing.T) {
	for _, digest := range []string{"None", "CRC32C"} {
		for _, initialR2T := range []string{"Yes", "No"} {
			for _, immediate := range []string{"Yes", "No"} {
				for _, r2ts := range []string{"1", "4"} {
					t.Run(fmt.Sprintf("digest=%s/r2t=%s/immediate=%s/outstanding=%s", digest, initialR2T, immediate, r2ts), func(t *testing.T) {
						b := newBench(t, Config{}, nil)
						c := b.login(kv("HeaderDigest", digest, "DataDigest", digest, "InitialR2T", initialR2T, "ImmediateData", immediate,
							"FirstBurstLength", "16384", "MaxBurstLength", "65536", "MaxOutstandingR2T", r2ts, "MaxRecvDataSegmentLength", "5120")...)
						for _, blocks := range []int{1, 7, 32, 33, 200, 1031} {
							data := pattern(byte(blocks), blocks*512)
							writeAllWays(t, c, data, initialR2T == "No", immediate == "Yes")
							if !bytes.Equal(b.unit.at(4096, len(data)), data) {
								t.Fatalf("%d blocks did not arrive whole", blocks)
							}
							r := c.do(iscsi.Read16CDB(8, uint32(blocks)), uint32(len(data)))
							r.want(t, iscsi.StatusGood)
							if !bytes.Equal(r.data, data) {
								t.Fatalf("%d blocks did not come back whole", blocks)
							}
						}
					})
				}
			}
		}
	}
}

// writeAllWays writes data at LBA 8: some immediate, some unsolicited in several PDUs, the rest when asked.
func writeAllWays(t *testing.T, c *client, data []byte, unsolicited, immediate bool) {
	t.Helper()
	cmd := c.command(iscsi.Write16CDB(8, uint32(len(data)/512), false), uint32(len(data)), true)
	first := min(len(data), 16384)
	sent := 0
	if immediate {
		sent = min(first, 3000)
	}
	cmd.Final = !unsolicited || sent == len(data)
	c.send(cmd, data[:sent])
	for sn := uint32(0); !cmd.Final && sent < first; sn++ {
		n := min(5000, first-sent)
		c.send(iscsi.DataOut{Final: sent+n == first, ITT: cmd.ITT, TTT: iscsi.NoTag, DataSN: sn, Offset: uint32(sent)}, data[sent:sent+n])
		sent += n
	}
	c.finish(cmd.ITT, data, 7777).want(t, iscsi.StatusGood)
}

func TestWriteBeyondTheTransferLimitIsRefusedAndTheSessionLives(t *testing.T) {
	b := newBench(t, Config{}, nil)
	b.unit.info.SizeBytes = 1 << 40
	c := b.login(kv("InitialR2T", "No")...)
	blocks := uint32(32 << 20 / 512)
	cmd := c.command(iscsi.Write16CDB(0, blocks, false), blocks*512, true)
	cmd.Final = false
	c.send(cmd, make([]byte, 8192))
	c.send(iscsi.DataOut{Final: true, ITT: cmd.ITT, TTT: iscsi.NoTag, Offset: 8192}, make([]byte, 8192))
	c.finish(cmd.ITT, nil, 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCLBAOutOfRange)
	cmd = c.command(iscsi.Write16CDB(0, 16<<20/512, false), 16<<20, true)
	c.send(cmd, make([]byte, 8192))
	c.finish(cmd.ITT, nil, 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestMemoryIsBoundedByTaskSetFull(t *testing.T) {
	b := newBench(t, Config{MaxBufferedBytes: 1 << 20, MaxBufferedBytesPerPeer: 1 << 20}, nil)
	c := b.login()
	first := c.command(iscsi.Write16CDB(0, 2048, false), 1<<20, true)
	c.send(first, nil)
	asked := iscsi.ParseR2T(c.recv())
	c.put(iscsi.Write16CDB(0, 8, false), make([]byte, 4096)).want(t, iscsi.StatusTaskSetFull)
	c.do(iscsi.Read16CDB(0, 8), 4096).want(t, iscsi.StatusTaskSetFull)
	data := pattern(1, 1<<20)
	c.answerR2T(asked, data, 1<<17)
	c.finish(first.ITT, data, 1<<17).want(t, iscsi.StatusGood)
	c.do(iscsi.Read16CDB(0, 8), 4096).want(t, iscsi.StatusGood)
}

func TestResiduals(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	want := pattern(1, 4096)
	c.put(iscsi.Write16CDB(0, 8, false), want).want(t, iscsi.StatusGood)
	r := c.do(iscsi.Read16CDB(0, 2), 4096)
	if r.status != 0 || len(r.data) != 1024 || r.res != (iscsi.Residual{Under: true, Count: 3072}) {
		t.Errorf("more expected than read: %d bytes, %+v", len(r.data), r.res)
	}
	r = c.do(iscsi.Read16CDB(0, 8), 1000)
	if r.status != 0 || !bytes.Equal(r.data, want[:1000]) || r.res != (iscsi.Residual{Over: true, Count: 3096}) {
		t.Errorf("less expected than read: %d bytes, %+v", len(r.data), r.res)
	}
	r = c.put(iscsi.Write16CDB(0, 8, false), pattern(9, 1024))
	if r.status != 0 || r.res != (iscsi.Residual{Over: true, Count: 3072}) || !bytes.Equal(b.unit.at(1024, 3072), want[1024:]) {
		t.Errorf("less sent than written: %#x %+v", r.status, r.res)
	}
	r = c.put(iscsi.Write16CDB(16, 1, false), pattern(9, 1024))
	if r.status != 0 || r.res != (iscsi.Residual{Under: true, Count: 512}) || !bytes.Equal(b.unit.at(17*512, 512), make([]byte, 512)) {
		t.Errorf("more sent than written: %#x %+v", r.status, r.res)
	}
}

func TestSequenceErrorEndsTheTaskOnly(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login(kv("InitialR2T", "No", "ImmediateData", "No")...)
	data := pattern(3, 4096)
	for name, d := range map[string]iscsi.DataOut{"number": {DataSN: 5}, "offset": {Offset: 512}} {
		cmd := c.command(iscsi.Write16CDB(0, 8, false), 4096, true)
		cmd.Final = false
		c.send(cmd, nil)
		d.ITT, d.TTT = cmd.ITT, iscsi.NoTag
		c.send(d, data[:512])
		r := c.finish(cmd.ITT, nil, 0)
		if r.status != iscsi.StatusCheckCondition || r.sense.Key != iscsi.SenseAborted {
			t.Fatalf("%s: %#x %v", name, r.status, r.sense)
		}
		d.Final = true
		c.send(d, data[:512]) // what was still on its way
	}
	if !bytes.Equal(b.unit.at(0, 4096), make([]byte, 4096)) {
		t.Fatal("a broken sequence was written")
	}
	c.put2(t, data)
}

// put2 writes data at 0 with unsolicited data only.
func (c *client) put2(t *testing.T, data []byte) {
	t.Helper()
	cmd := c.command(iscsi.Write16CDB(0, uint32(len(data)/512), false), uint32(len(data)), true)
	cmd.Final = false
	c.send(cmd, nil)
	c.send(iscsi.DataOut{Final: true, ITT: cmd.ITT, TTT: iscsi.NoTag}, data)
	c.finish(cmd.ITT, nil, 0).want(t, iscsi.StatusGood)
}

func TestBrokenDigestsEndTheSession(t *testing.T) {
	for name, at := range map[string]int{"header": 20, "data": 60} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Config{}, nil)
			c := b.login(kv("HeaderDigest", "CRC32C", "DataDigest", "CRC32C")...)
			var wire bytes.Buffer
			w := iscsi.NewWriter(&wire)
			w.SetDigests(true, true)
			var p iscsi.PDU
			c.command(iscsi.Write16CDB(0, 1, false), 512, true).Put(&p)
			p.Data = pattern(1, 512)
			if err := w.Write(&p); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			wire.Bytes()[at] ^= 0x10
			if _, err := c.nc.Write(wire.Bytes()); err != nil {
				t.Fatal(err)
			}
			for _, op := range c.gone() {
				if op != iscsi.OpReject {
					t.Errorf("%v came", op)
				}
			}
			if !bytes.Equal(b.unit.at(0, 512), make([]byte, 512)) {
				t.Error("damaged data was written")
			}
		})
	}
}

func TestProtocolViolationsEndTheSession(t *testing.T) {
	big := make([]byte, 4096)
	for name, f := range map[string]func(c *client){
		"data for a tag that was not given": func(c *client) {
			cmd := c.command(iscsi.Write16CDB(0, 8, false), 4096, true)
			c.send(cmd, nil)
			c.recv()
			c.send(iscsi.DataOut{Final: true, ITT: cmd.ITT, TTT: 0x12345}, big)
		},
		"more data than asked for": func(c *client) {
			cmd := c.command(iscsi.Write16CDB(0, 4, false), 2048, true)
			c.send(cmd, nil)
			r := iscsi.ParseR2T(c.recv())
			c.send(iscsi.DataOut{Final: true, ITT: cmd.ITT, TTT: r.TTT}, big)
		},
		"less data than asked for": func(c *client) {
			cmd := c.command(iscsi.Write16CDB(0, 8, false), 4096, true)
			c.send(cmd, nil)
			r := iscsi.ParseR2T(c.recv())
			c.send(iscsi.DataOut{Final: true, ITT: cmd.ITT, TTT: r.TTT}, big[:512])
		},
		"immediate data beyond the first burst": func(c *client) {
			c.send(c.command(iscsi.Write16CDB(0, 8, false), 4096, true), big)
		},
		"immediate data for a read": func(c *client) {
			c.send(c.command(iscsi.Read16CDB(0, 8), 4096, false), big[:512])
		},
		"immediate data beyond the expected length": func(c *client) {
			c.send(c.command(iscsi.Write16CDB(0, 1, false), 512, true), big[:1024])
		},
		"reserved tag": func(c *client) {
			cmd := c.command(iscsi.TestUnitReadyCDB(), 0, false)
			cmd.ITT = iscsi.NoTag
			c.send(cmd, nil)
		},
		"a gap in CmdSN": func(c *client) {
			c.cmdSN++
			c.send(c.command(iscsi.TestUnitReadyCDB(), 0, false), nil)
		},
		"a login again":  func(c *client) { c.send(iscsi.Login{Transit: true, CSG: 1, NSG: 3}, nil) },
		"a target's PDU": func(c *client) { c.send(iscsi.R2T{}, nil) },
		"a lying length": func(c *client) {
			var p iscsi.PDU
			c.command(iscsi.Write16CDB(0, 8, false), 4096, true).Put(&p)
			p.BHS[5] = 0xff
			if _, err := c.nc.Write(p.BHS[:]); err != nil {
				c.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Config{}, nil)
			c := b.login(kv("FirstBurstLength", "2048")...)
			f(c)
			c.gone()
			b.login() // the server lives
		})
	}
}

func TestCommandsOutOfTheWindowAreIgnored(t *testing.T) {
	b := newBench(t, Config{QueueDepth: 8}, nil)
	c := b.login()
	for _, sn := range []uint32{c.cmdSN - 1, c.cmdSN + 8, c.cmdSN + 1<<31} {
		cmd := c.command(iscsi.TestUnitReadyCDB(), 0, false)
		c.cmdSN--
		cmd.CmdSN = sn
		c.send(cmd, nil)
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood) // the next answer is this one's
	b.unit.hold()
	for range 8 {
		c.send(c.command(iscsi.Read16CDB(0, 1), 512, false), nil)
	}
	for range 8 {
		<-b.unit.arrived
	}
	c.send(iscsi.NopOut{Immediate: true, ITT: 1 << 20, TTT: iscsi.NoTag, CmdSN: c.cmdSN}, nil)
	if p := c.recv(); p.Opcode() != iscsi.OpNopIn || p.MaxCmdSN() != c.cmdSN-1 || p.ExpCmdSN() != c.cmdSN {
		t.Fatalf("window %d to %d with 8 of 8 in flight at %d", p.ExpCmdSN(), p.MaxCmdSN(), c.cmdSN)
	}
	b.unit.release()
	last := uint32(0)
	for range 8 {
		p := c.recv()
		if int32(p.MaxCmdSN()-last) < 0 && last != 0 {
			t.Fatal("MaxCmdSN fell")
		}
		last = p.MaxCmdSN()
	}
	if last != c.cmdSN+7 {
		t.Fatalf("the window is not open again: %d at %d", last, c.cmdSN)
	}
}

func TestPingIsEchoed(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	c.send(iscsi.NopOut{ITT: 5, TTT: iscsi.NoTag, CmdSN: c.cmdSN}, []byte("hello"))
	c.cmdSN++
	if p := c.recv(); p.Opcode() != iscsi.OpNopIn || p.ITT() != 5 || string(p.Data) != "hello" {
		t.Fatalf("%v %q", p.Opcode(), p.Data)
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestWritesReachTheUnitInCmdSNOrder(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	var batch bytes.Buffer
	w := iscsi.NewWriter(&batch)
	for i := range 64 {
		var p iscsi.PDU
		c.command(iscsi.Write16CDB(uint64(i)*8, 1, false), 512, true).Put(&p)
		p.Data = make([]byte, 512)
		if err := w.Write(&p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nc.Write(batch.Bytes()); err != nil {
		t.Fatal(err)
	}
	for range 64 {
		c.recv()
	}
	for i, off := range b.unit.writes {
		if off != int64(i)*4096 {
			t.Fatalf("write %d went to %d", i, off)
		}
	}
}

func TestUnmapListIsCheckedBeforeAnythingIsUnmapped(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	c.put(iscsi.Write16CDB(0, 8, false), pattern(1, 4096)).want(t, iscsi.StatusGood)
	list := iscsi.UnmapList([]iscsi.Extent{{LBA: 0, Blocks: 8}, {LBA: 1 << 40, Blocks: 8}})
	c.put(iscsi.UnmapCDB(uint16(len(list))), list).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCLBAOutOfRange)
	if !bytes.Equal(b.unit.at(0, 4096), pattern(1, 4096)) {
		t.Fatal("part of a bad list was unmapped")
	}
	lying := iscsi.UnmapList([]iscsi.Extent{{LBA: 0, Blocks: 8}})
	binary.BigEndian.PutUint16(lying[2:], 0xfff0)
	c.put(iscsi.UnmapCDB(uint16(len(lying))), lying).want(t, iscsi.StatusGood)
	if !bytes.Equal(b.unit.at(0, 4096), make([]byte, 4096)) {
		t.Fatal("not unmapped")
	}
}

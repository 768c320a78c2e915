package nbd

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestExportNameOpensTheOldWay(t *testing.T) {
	b := newBench(t, Config{})
	for flags, zeroes := range map[uint32]int{1: exportZeroes, 3: 0, 0: exportZeroes} {
		c := b.dial()
		c.put(flags, uint64(magicOption), uint32(optExportName), uint32(len(testExport)), testExport)
		if size := binary.BigEndian.Uint64(c.take(8)); size != 16<<20 {
			t.Errorf("size %d", size)
		}
		if got := binary.BigEndian.Uint16(c.take(2)); got != txHasFlags|txSendFlush|txSendFUA|txSendTrim|txSendWriteZeroes|txCanMultiConn|txSendCache {
			t.Errorf("flags %#x", got)
		}
		c.take(zeroes)
		c.do(cmdWrite, 0, 512, 512, pattern(1, 512)).want(t, 0)
		if got := c.do(cmdRead, 0, 512, 512, nil).want(t, 0); got.structured || !bytes.Equal(got.data, pattern(1, 512)) {
			t.Error("read something else")
		}
	}
	c := b.dial()
	c.put(uint32(3), uint64(magicOption), uint32(optExportName), uint32(4), "none")
	if n := c.gone(); n != 0 {
		t.Errorf("%d bytes answer an export that is not there", n)
	}
}

func TestOptionsAreAnsweredByTheBook(t *testing.T) {
	b := newBench(t, Config{})
	if err := b.srv.AddExport("other", newMemUnit(4096)); err != nil {
		t.Fatal(err)
	}
	c := b.dial()
	c.put(uint32(3))
	for _, o := range []struct {
		name string
		opt  uint32
		data string
		want uint32
	}{
		{"unknown", 99, "some data", repErrUnsup},
		{"peek of the old days", 4, "", repErrUnsup},
		{"extended headers", 11, "", repErrUnsup},
		{"list with data", optList, "x", repErrInvalid},
		{"structured with data", optStructuredReply, "x", repErrInvalid},
		{"TLS that is not there", optStartTLS, "", repErrPolicy},
		{"TLS with data", optStartTLS, "x", repErrInvalid},
		{"info of nothing", optInfo, "", repErrInvalid},
		{"info of an unknown export", optInfo, goData("none"), repErrUnknown},
		{"go to an unknown export", optGo, goData("none"), repErrUnknown},
		{"go to none of two", optGo, goData(""), repErrUnknown},
		{"go with a lying name", optGo, "\xff\xff\xff\xff" + testExport, repErrInvalid},
		{"go with a long name", optGo, goData(strings.Repeat("n", maxName+1)), repErrInvalid},
		{"go with too few infos", optGo, goData(testExport)[:4+len(testExport)] + "\x00\x02\x00\x01", repErrInvalid},
		{"go with a tail", optGo, goData(testExport) + "x", repErrInvalid},
		{"contexts without structured replies", optSetMetaContext, contextData(testExport, contextAllocation), repErrInvalid},
		{"contexts with a lying count", optListMetaContext, lv(testExport) + "\xff\xff\xff\xff", repErrInvalid},
		{"contexts of an unknown export", optListMetaContext, contextData("none"), repErrUnknown},
		{"too long", optInfo, strings.Repeat("x", maxOption+1), repErrTooBig},
		{"info", optInfo, goData(testExport), repAck},
	} {
		if _, last := c.option(o.opt, o.data); last != o.want {
			t.Errorf("%s: %#x, want %#x", o.name, last, o.want)
		}
	}
	replies, _ := c.option(optList, "")
	if len(replies) != 2 || string(replies[0].data) != lv(testExport) || string(replies[1].data) != lv("other") {
		t.Errorf("list %v", replies)
	}
	if _, last := c.option(optAbort, ""); last != repAck {
		t.Errorf("abort %#x", last)
	}
	c.gone()
}

func TestInfoTellsWhatIsAskedAndTheBlockSizes(t *testing.T) {
	b := newBench(t, Config{})
	c := b.dial()
	c.put(uint32(3))
	replies, last := c.option(optInfo, goData("", infoName, infoDescription, 77))
	if last != repAck {
		t.Fatalf("info %#x", last)
	}
	told := map[uint16][]byte{}
	for _, r := range replies {
		told[binary.BigEndian.Uint16(r.data)] = r.data[2:]
	}
	sizes := told[infoBlockSize]
	if string(told[infoName]) != testExport || string(told[infoDescription]) != "memory" || len(told) != 4 || len(sizes) != 12 ||
		binary.BigEndian.Uint32(sizes) != 512 || binary.BigEndian.Uint32(sizes[4:]) != 4096 || binary.BigEndian.Uint32(sizes[8:]) != maxPayload {
		t.Errorf("told %v", told)
	}
	replies, _ = c.option(optGo, goData(testExport))
	if len(replies) != 2 {
		t.Errorf("%d replies", len(replies))
	}
	c.do(cmdFlush, 0, 0, 0, nil).want(t, 0)
}

// allocated is a unit that is not thin and does not know what is allocated.
type allocated struct{ u *memUnit }

func (a allocated) Info() target.UnitInfo {
	return target.UnitInfo{SizeBytes: a.u.info.SizeBytes, ReadOnly: a.u.info.ReadOnly}
}
func (a allocated) Submit(c *target.Command, done func(error)) { a.u.Submit(c, done) }

// fast is a unit that zeroes fast, but only by making holes.
type fast struct{ *memUnit }

func (fast) FastZero(hole bool) bool { return hole }

func TestFlagsFollowTheUnit(t *testing.T) {
	always := uint16(txHasFlags | txSendFlush | txSendFUA | txCanMultiConn | txSendCache)
	readOnly := newMemUnit(4096)
	readOnly.info.ReadOnly = true
	for name, c := range map[string]struct {
		unit       target.Unit
		structured bool
		want       uint16
	}{
		"thin":                    {newMemUnit(4096), false, always | txSendTrim | txSendWriteZeroes},
		"thin, structured":        {newMemUnit(4096), true, always | txSendTrim | txSendWriteZeroes | txSendDF},
		"thick":                   {allocated{newMemUnit(4096)}, false, always | txSendWriteZeroes},
		"read only":               {readOnly, false, always | txReadOnly},
		"zeroes fast":             {fast{newMemUnit(4096)}, false, always | txSendTrim | txSendWriteZeroes | txSendFastZero},
		"read only though it can": {allocated{readOnly}, true, always | txReadOnly | txSendDF},
	} {
		info := c.unit.Info()
		if got := newExport("x", c.unit).flags(&info, c.structured); got != c.want {
			t.Errorf("%s: %#x, want %#x", name, got, c.want)
		}
	}
}

func TestMetadataContexts(t *testing.T) {
	b := newBench(t, Config{})
	if err := b.srv.AddExport("thick", allocated{newMemUnit(4096)}); err != nil {
		t.Fatal(err)
	}
	c := b.dial()
	c.put(uint32(3))
	if _, last := c.option(optStructuredReply, ""); last != repAck {
		t.Fatal(last)
	}
	for _, o := range []struct {
		name string
		opt  uint32
		data string
		want int
	}{
		{"all", optListMetaContext, contextData(testExport), 1},
		{"all of base", optListMetaContext, contextData(testExport, "base:"), 1},
		{"others", optListMetaContext, contextData(testExport, "qemu:", "base:dirty"), 0},
		{"of a unit that does not know", optListMetaContext, contextData("thick"), 0},
		{"choose a name space", optSetMetaContext, contextData(testExport, "base:"), 0},
		{"choose none", optSetMetaContext, contextData(testExport), 0},
		{"choose", optSetMetaContext, contextData(testExport, "other:x", contextAllocation, contextAllocation), 1},
	} {
		replies, last := c.option(o.opt, o.data)
		if last != repAck || len(replies) != o.want || o.want == 1 && string(replies[0].data[4:]) != contextAllocation {
			t.Errorf("%s: %#x %v", o.name, last, replies)
		}
	}
	// A choice holds for its export, and until the next one.
	c.open(false)
	c.do(cmdBlockStatus, 0, 0, 4096, nil).want(t, 0)
	for name, choices := range map[string][]string{"another export": {contextData("thick", contextAllocation)},
		"chosen away": {contextData(testExport, contextAllocation), contextData(testExport)}, "never": nil} {
		c := b.dial()
		c.put(uint32(3))
		c.option(optStructuredReply, "")
		for _, data := range choices {
			c.option(optSetMetaContext, data)
		}
		c.option(optGo, goData(testExport))
		if a := c.do(cmdBlockStatus, 0, 0, 4096, nil); a.err != errInval {
			t.Errorf("%s: error %d", name, a.err)
		}
	}
}

func TestBadHandshakesEndTheConnection(t *testing.T) {
	b := newBench(t, Config{})
	for name, send := range map[string][]any{
		"unknown client flags":        {uint32(1 << 5)},
		"no magic":                    {uint32(3), uint64(1), uint32(optList), uint32(0)},
		"old client with new options": {uint32(0), uint64(magicOption), uint32(optList), uint32(0)},
		"an option of 4 GiB":          {uint32(3), uint64(magicOption), uint32(optList), uint32(1<<32 - 1)},
		"a name of 1 MiB":             {uint32(3), uint64(magicOption), uint32(optExportName), uint32(1 << 20)},
	} {
		c := b.dial()
		c.put(send...)
		if n := c.gone(); n != 0 {
			t.Errorf("%s: %d bytes answer", name, n)
		}
	}
}

func TestAHandshakeHasItsTime(t *testing.T) {
	b := newBench(t, Config{HandshakeTimeout: 500 * time.Millisecond})
	for _, begin := range [][]any{nil, {uint32(3)}, {uint32(3), uint64(magicOption), uint32(optList), uint32(8), "half"}} {
		c := b.dial()
		if len(begin) > 0 {
			c.put(begin...)
		}
		c.gone()
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	b := newBench(t, Config{MaxConnections: 2})
	first := b.open(false)
	b.dial()
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if n, _ := nc.Read(make([]byte, 1)); n != 0 {
		t.Fatal("a third connection was greeted")
	}
	first.ask(cmdDisc, 0, 0, 0, nil)
	first.gone()
	eventually(t, "no place became free", func() bool {
		b.srv.mu.Lock()
		defer b.srv.mu.Unlock()
		return len(b.srv.conns) == 1
	})
	b.open(false)
}

func TestExportsAreChecked(t *testing.T) {
	s := New(Config{})
	for name, u := range map[string]target.Unit{"": newMemUnit(512), strings.Repeat("x", maxName+1): newMemUnit(512), "nul\x00": newMemUnit(512), "empty": newMemUnit(0)} {
		if err := s.AddExport(name, u); err == nil {
			t.Errorf("export %.20q was added", name)
		}
	}
	if err := s.AddExport("a", newMemUnit(512)); err != nil {
		t.Fatal(err)
	}
	if err := s.AddExport("a", newMemUnit(512)); err == nil {
		t.Error("added twice")
	}
	if err := s.RemoveExport("b"); err == nil {
		t.Error("removed what is not there")
	}
	if got := s.names(); !slices.Equal(got, []string{"a"}) {
		t.Error(got)
	}
}

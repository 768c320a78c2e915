package applog

import (
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Span is the run of records that one boot of the VM wrote.
type Span struct {
	Instance string        `json:"instance"`
	Site     domain.SiteID `json:"site"`
	Epoch    domain.Epoch  `json:"epoch"`
	FirstSeq uint64        `json:"first_seq"`
	LastSeq  uint64        `json:"last_seq"`
	FirstNS  int64         `json:"first_ns"` // wall clock
	LastNS   int64         `json:"last_ns"`
}

// Report is what a scan found.
type Report struct {
	Header   Header `json:"-"`
	Records  uint64 `json:"records"`             // whole, chained records from 1
	LastSeq  uint64 `json:"last_seq"`            // the same number; 0 for an empty log
	LastHash Hash   `json:"-"`                   // of record LastSeq, zero for an empty log
	LastNS   int64  `json:"last_ns"`             // wall clock of record LastSeq
	TornTail bool   `json:"torn_tail"`           // one incomplete record follows, as a crash may leave it
	PrefixOK bool   `json:"prefix_ok"`           // the log is a prefix of what was written
	BrokenAt uint64 `json:"broken_at,omitempty"` // the first record in the wrong, 0 when PrefixOK
	Problem  string `json:"problem,omitempty"`   // what is wrong there
	Spans    []Span `json:"spans"`
}

// Options bound and observe a scan.
type Options struct {
	// Lookahead is how many bytes beyond the end of the log are searched for records that should not be there.
	// 0 searches to the end of the log's capacity.
	Lookahead int64
	// Each, when set, is called for every good record in order.
	Each func(Record, Hash)
}

// Scan reads a whole log and judges it. The error is one of reading, or wraps ErrNotLog or ErrCorrupt (no header); a
// broken prefix is not an error but a finding.
func Scan(r io.ReaderAt) (Report, error) { return ScanWith(r, Options{}) }

// ScanWith is Scan with options.
func ScanWith(r io.ReaderAt, o Options) (Report, error) {
	h, err := ReadHeader(r)
	if err != nil {
		return Report{}, err
	}
	s := &scanner{opts: o, report: Report{Header: h, PrefixOK: true}}
	src := &slots{r: r, h: h}
	for n := uint64(1); n <= h.Capacity; n++ {
		b, err := src.slot(n)
		if errors.Is(err, io.EOF) {
			s.tail(n, b)
			break
		}
		if err != nil {
			return s.report, fmt.Errorf("read record %d: %w", n, err)
		}
		if !s.next(n, b) {
			break
		}
	}
	return s.report, nil
}

// scanner holds the state of one scan: first in the log, then, after the first slot that is no record, beyond its end.
type scanner struct {
	opts   Options
	report Report
	end    uint64 // the first slot that is no record; 0 while in the log
}

// next takes slot n, and reports whether to go on.
func (s *scanner) next(n uint64, b []byte) bool {
	if s.end == 0 {
		return s.inside(n, b)
	}
	if s.opts.Lookahead > 0 && int64(n-s.end)*int64(s.report.Header.RecordSize) > s.opts.Lookahead {
		return false
	}
	if zero(b) {
		return true
	}
	return s.broken(s.end, fmt.Sprintf("record %d is missing, and there is data at record %d", s.end, n))
}

func (s *scanner) inside(n uint64, b []byte) bool {
	rec, hash, err := DecodeRecord(b)
	if err != nil {
		s.end = n
		s.report.TornTail = !zero(b)
		return true
	}
	last := Span{}
	if k := len(s.report.Spans); k > 0 {
		last = s.report.Spans[k-1]
	}
	switch {
	case rec.Seq != n:
		return s.broken(n, fmt.Sprintf("record %d stands in the place of record %d", rec.Seq, n))
	case rec.LogID != s.report.Header.LogID || rec.Volume != s.report.Header.Volume:
		return s.broken(n, fmt.Sprintf("record %d belongs to another log", n))
	case rec.Prev != s.report.LastHash:
		return s.broken(n, fmt.Sprintf("record %d does not follow record %d: its chain is of another history", n, n-1))
	case rec.Epoch < last.Epoch:
		return s.broken(n, fmt.Sprintf("record %d has epoch %s after epoch %s", n, rec.Epoch, last.Epoch))
	}
	s.good(rec, hash)
	return true
}

func (s *scanner) good(rec Record, hash Hash) {
	p := &s.report
	p.Records, p.LastSeq, p.LastHash, p.LastNS = rec.Seq, rec.Seq, hash, rec.WallNS
	if k := len(p.Spans); k == 0 || p.Spans[k-1].Instance != rec.Instance {
		p.Spans = append(p.Spans, Span{Instance: rec.Instance, Site: rec.Site, Epoch: rec.Epoch, FirstSeq: rec.Seq, FirstNS: rec.WallNS})
	}
	span := &p.Spans[len(p.Spans)-1]
	span.LastSeq, span.LastNS = rec.Seq, rec.WallNS
	if s.opts.Each != nil {
		s.opts.Each(rec, hash)
	}
}

// tail takes what stands before the end of a file that ends within slot n.
func (s *scanner) tail(n uint64, b []byte) {
	if zero(b) {
		return
	}
	if s.end == 0 {
		s.end, s.report.TornTail = n, true
		return
	}
	s.broken(s.end, fmt.Sprintf("record %d is missing, and there is data at record %d", s.end, n))
}

func (s *scanner) broken(at uint64, problem string) bool {
	s.report.PrefixOK, s.report.BrokenAt, s.report.Problem = false, at, problem
	return false
}

// slots reads the log in large pieces.
type slots struct {
	r     io.ReaderAt
	h     Header
	buf   []byte
	first uint64 // slot at buf[0]
	eof   bool
}

const readBytes = 256 << 10

// slot is slot n; n must not fall from call to call. At the end of a file it is the bytes left, with io.EOF.
func (s *slots) slot(n uint64) ([]byte, error) {
	size := uint64(s.h.RecordSize)
	if s.first == 0 || (n-s.first+1)*size > uint64(len(s.buf)) && !s.eof {
		if err := s.fill(n); err != nil {
			return nil, err
		}
	}
	from := min((n-s.first)*size, uint64(len(s.buf)))
	to := min(from+size, uint64(len(s.buf)))
	if to-from < size {
		return s.buf[from:to], io.EOF
	}
	return s.buf[from:to], nil
}

func (s *slots) fill(n uint64) error {
	want := min(uint64(readBytes), (s.h.Capacity-n+1)*uint64(s.h.RecordSize))
	s.buf, s.first = make([]byte, want), n
	got, err := s.r.ReadAt(s.buf, s.h.Offset(n))
	if errors.Is(err, io.EOF) {
		s.eof, err = got < len(s.buf), nil
	}
	s.buf = s.buf[:got]
	return err
}

// CheckGroup judges the logs of one VM's volumes together, in the order the VM writes them: each append goes to the
// first volume, then the second, and so on. A prefix of that order has last sequences that never rise from volume to
// volume and differ by at most 1. The error names the volumes; nil for a group that is whole.
func CheckGroup(reports []Report) error {
	for i, r := range reports {
		if !r.PrefixOK {
			return fmt.Errorf("volume %d: %s", i, r.Problem)
		}
		if i == 0 {
			continue
		}
		first, before := reports[0].LastSeq, reports[i-1].LastSeq
		if r.LastSeq > before {
			return fmt.Errorf("volume %d ends at record %d but volume %d, written before it, at %d", i, r.LastSeq, i-1, before)
		}
		if r.LastSeq+1 < first {
			return fmt.Errorf("volume %d ends at record %d but volume 0 at %d: more than one append apart", i, r.LastSeq, first)
		}
	}
	return nil
}

package initiator

import (
	"context"
	"crypto/md5" //nolint:gosec // CHAP in iSCSI is MD5
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// params are what a login agreed on.
type params struct {
	maxSend      int // target's MaxRecvDataSegmentLength
	maxBurst     int
	firstBurst   int
	initialR2T   bool
	immediate    bool
	headerDigest bool
	dataDigest   bool
	cmdSN        uint32 // of the first command
	expStatSN    uint32
	maxCmdSN     uint32
}

const (
	maxRecv    = 256 << 10
	maxBurst   = 1 << 20
	firstBurst = 64 << 10
)

// login is one login in progress (RFC 7143 section 6.3). It ends with both sides in the full feature phase.
type login struct {
	r      *iscsi.Reader
	w      *iscsi.Writer
	url    URL
	opts   Options
	isid   [6]byte
	stage  byte
	stat   uint32
	mine   iscsi.Challenge // for mutual CHAP
	params params
}

func (l *login) run() (params, error) {
	l.stage = iscsi.StageSecurity
	l.params = params{maxSend: iscsi.DefaultMRDSL, maxBurst: 262144, firstBurst: 65536, initialR2T: true, immediate: true, cmdSN: 1}
	if err := l.security(); err != nil {
		return params{}, err
	}
	if err := l.operational(); err != nil {
		return params{}, err
	}
	return l.params, nil
}

func (l *login) security() error {
	keys := iscsi.Pairs{{Key: "InitiatorName", Value: l.opts.Name}, {Key: "TargetName", Value: l.url.Target}, {Key: "SessionType", Value: "Normal"}}
	chap := l.opts.CHAP.User != ""
	if !chap {
		keys.Add("AuthMethod", "None")
		if _, err := l.exchange(keys, true, iscsi.StageOperational); err != nil {
			return err
		}
		if l.stage == iscsi.StageSecurity {
			return fmt.Errorf("%w: the target asks for authentication", ErrAuth)
		}
		return nil
	}
	keys.Add("AuthMethod", "CHAP")
	answer, err := l.exchange(keys, false, iscsi.StageOperational)
	if err != nil {
		return err
	}
	if m, _ := answer.Get("AuthMethod"); m != "CHAP" {
		return fmt.Errorf("%w: the target chose %q for CHAP", ErrAuth, m)
	}
	return l.chap()
}

func (l *login) chap() error {
	answer, err := l.exchange(iscsi.Pairs{{Key: "CHAP_A", Value: iscsi.CHAPMD5}}, false, iscsi.StageOperational)
	if err != nil {
		return err
	}
	challenge, err := iscsi.ParseChallenge(answer)
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	c := l.opts.CHAP
	keys := iscsi.Pairs{{Key: "CHAP_N", Value: c.User}, {Key: "CHAP_R", Value: iscsi.EncodeBinary(challenge.Response([]byte(c.Secret)))}}
	if c.MutualSecret != "" {
		l.mine = iscsi.NewChallenge()
		l.mine.Add(&keys)
	}
	if answer, err = l.exchange(keys, true, iscsi.StageOperational); err != nil {
		return err
	}
	if c.MutualSecret != "" {
		name, _ := answer.Get("CHAP_N")
		response, _ := answer.Get("CHAP_R")
		proven := l.mine.Verify(response, []byte(c.MutualSecret)) || c.MutualOld != "" && l.mine.Verify(response, []byte(c.MutualOld))
		if name != c.MutualUser || len(response) != 2+2*md5.Size || !proven {
			return fmt.Errorf("%w: the target did not prove itself", ErrAuth)
		}
	}
	if l.stage == iscsi.StageSecurity {
		return fmt.Errorf("%w: the target did not go on after CHAP", ErrAuth)
	}
	return nil
}

func (l *login) operational() error {
	digest := func(on bool) string {
		if on {
			return "CRC32C"
		}
		return "None"
	}
	keys := iscsi.Pairs{
		{Key: "HeaderDigest", Value: digest(l.opts.HeaderDigest)}, {Key: "DataDigest", Value: digest(l.opts.DataDigest)},
		{Key: "ErrorRecoveryLevel", Value: "0"}, {Key: "InitialR2T", Value: "No"}, {Key: "ImmediateData", Value: "Yes"},
		{Key: "MaxRecvDataSegmentLength", Value: strconv.Itoa(maxRecv)}, {Key: "MaxBurstLength", Value: strconv.Itoa(maxBurst)},
		{Key: "FirstBurstLength", Value: strconv.Itoa(firstBurst)}, {Key: "MaxConnections", Value: "1"},
		{Key: "MaxOutstandingR2T", Value: "1"}, {Key: "DefaultTime2Wait", Value: "0"}, {Key: "DefaultTime2Retain", Value: "0"},
		{Key: "DataPDUInOrder", Value: "Yes"}, {Key: "DataSequenceInOrder", Value: "Yes"},
	}
	for range 8 {
		answer, err := l.exchange(keys, true, iscsi.StageFullFeature)
		if err != nil {
			return err
		}
		if err := l.agree(answer); err != nil {
			return err
		}
		if l.stage == iscsi.StageFullFeature {
			if l.opts.HeaderDigest && !l.params.headerDigest || l.opts.DataDigest && !l.params.dataDigest {
				return errors.New("log in: the target refuses digests")
			}
			return nil
		}
		keys = nil
	}
	return errors.New("log in: the target never finished negotiating")
}

// agree takes over the values of one answer (RFC 7143 section 13).
func (l *login) agree(answer iscsi.Pairs) error {
	p := &l.params
	for _, kv := range answer {
		number := func(to *int, low, high int) error {
			n, err := strconv.ParseInt(kv.Value, 0, 64)
			if err != nil || n < int64(low) || n > 1<<24 {
				return fmt.Errorf("log in: %s=%.20s: not a valid number", kv.Key, kv.Value)
			}
			*to = min(int(n), high)
			return nil
		}
		var err error
		switch kv.Key {
		case "MaxRecvDataSegmentLength":
			err = number(&p.maxSend, 512, maxRecv)
		case "MaxBurstLength":
			err = number(&p.maxBurst, 512, maxBurst)
		case "FirstBurstLength":
			err = number(&p.firstBurst, 512, firstBurst)
		case "InitialR2T":
			p.initialR2T = kv.Value != "No"
		case "ImmediateData":
			p.immediate = kv.Value == "Yes"
		case "HeaderDigest":
			p.headerDigest = strings.HasPrefix(kv.Value, "CRC32C")
		case "DataDigest":
			p.dataDigest = strings.HasPrefix(kv.Value, "CRC32C")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// exchange sends one login request and reads the whole answer, asking for its further parts. It moves l.stage on when
// the target agrees to the transition.
func (l *login) exchange(keys iscsi.Pairs, transit bool, next byte) (iscsi.Pairs, error) {
	var text []byte
	for range 16 {
		if err := l.send(keys, transit, next); err != nil {
			return nil, err
		}
		res, data, err := l.receive()
		if err != nil {
			return nil, err
		}
		text = append(text, data...)
		if len(text) > iscsi.MaxTextLen {
			break
		}
		if res.Continue {
			keys = nil
			continue
		}
		answer, err := iscsi.DecodePairs(text)
		if err != nil {
			return nil, fmt.Errorf("log in: %w", err)
		}
		if res.Transit {
			if !transit || res.NSG != next {
				return nil, fmt.Errorf("log in: the target went to stage %d unasked", res.NSG)
			}
			l.stage = next
		}
		if v, ok := answer.Get("MaxRecvDataSegmentLength"); ok && next != iscsi.StageFullFeature {
			err = l.agree(iscsi.Pairs{{Key: "MaxRecvDataSegmentLength", Value: v}})
		}
		return answer, err
	}
	return nil, errors.New("log in: the answer never ends")
}

func (l *login) send(keys iscsi.Pairs, transit bool, next byte) error {
	req := iscsi.Login{Transit: transit, CSG: l.stage, ISID: l.isid, CmdSN: l.params.cmdSN, ExpStatSN: l.stat}
	if transit {
		req.NSG = next
	}
	var p iscsi.PDU
	req.Put(&p)
	p.Data = keys.Encode()
	if err := l.w.Write(&p); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	if err := l.w.Flush(); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	return nil
}

func (l *login) receive() (iscsi.LoginResponse, []byte, error) {
	var p iscsi.PDU
	if err := l.r.Next(&p); err != nil {
		return iscsi.LoginResponse{}, nil, fmt.Errorf("log in: %w", err)
	}
	defer p.Release()
	if p.Opcode() != iscsi.OpLoginResponse {
		return iscsi.LoginResponse{}, nil, fmt.Errorf("log in: the target sent %v", p.Opcode())
	}
	res := iscsi.ParseLoginResponse(&p)
	switch {
	case res.Status == iscsi.LoginAuthFailure || res.Status == iscsi.LoginNotAuthorized:
		return res, nil, fmt.Errorf("%w (status 0x%04x)", ErrAuth, res.Status)
	case res.Status != iscsi.LoginSuccess:
		return res, nil, fmt.Errorf("log in to %s: refused with status 0x%04x", l.url, res.Status)
	}
	l.stat = res.StatSN + 1
	l.params.expStatSN, l.params.maxCmdSN = res.StatSN+1, res.MaxCmdSN
	return res, append([]byte(nil), p.Data...), nil
}

// connect dials and logs in; the connection it returns is not running yet. ctx bounds it.
func connect(ctx context.Context, u URL, o Options, isid [6]byte, onDone func(*command)) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.LoginTimeout)
	defer cancel()
	if o.Credentials != nil {
		o.CHAP = o.Credentials()
	}
	nc, err := o.Dial(ctx, "tcp", u.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", u, err)
	}
	// The end of ctx unblocks the reads and writes of the login.
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	p, r, w, err := handshake(nc, u, o, isid)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return newConn(nc, r, w, p, iscsi.EncodeLUN(u.LUN), o.Silence, onDone), nil
}

func handshake(nc net.Conn, u URL, o Options, isid [6]byte) (params, *iscsi.Reader, *iscsi.Writer, error) {
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true)
	}
	r, w := iscsi.NewReader(nc, nil, maxRecv), iscsi.NewWriter(nc)
	l := &login{r: r, w: w, url: u, opts: o, isid: isid}
	p, err := l.run()
	if err != nil {
		return params{}, nil, nil, err
	}
	r.SetDigests(p.headerDigest, p.dataDigest)
	w.SetDigests(p.headerDigest, p.dataDigest)
	return p, r, w, nil
}

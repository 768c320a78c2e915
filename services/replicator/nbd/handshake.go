package nbd

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// errAborted ends a handshake that the client ended with NBD_OPT_ABORT.
var errAborted = errors.New("client aborted the handshake")

// handshake is what a client has negotiated so far.
type handshake struct {
	c        *conn
	fixed    bool // the client knows that there are options besides EXPORT_NAME
	noZeroes bool
	secure   bool

	structured bool
	context    *export // for which base:allocation was asked

	opt uint32       // the option that is being answered
	buf bytes.Buffer // its replies
}

// handshake greets the client and follows its options until it has an export: c.exp is set then. The export is c's from
// before the client hears of it, also when an error is returned.
func (c *conn) handshake() error {
	h := handshake{c: c}
	greeting := binary.BigEndian.AppendUint64(nil, magicServer)
	greeting = binary.BigEndian.AppendUint64(greeting, magicOption)
	greeting = binary.BigEndian.AppendUint16(greeting, hsFixedNewstyle|hsNoZeroes)
	if _, err := c.nc.Write(greeting); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^(hsFixedNewstyle|hsNoZeroes) != 0 {
		return fmt.Errorf("client flags %#x: %w", flags, errProtocol)
	}
	h.fixed, h.noZeroes = flags&hsFixedNewstyle != 0, flags&hsNoZeroes != 0
	for c.exp == nil {
		if err := h.next(); err != nil {
			return err
		}
	}
	c.structured = h.structured
	c.allocation = h.context == c.exp
	c.out.copyBelow = copyBelow
	if h.secure {
		c.out.copyBelow = copyBelowTLS
	}
	return nil
}

// next reads one option and answers it.
func (h *handshake) next() error {
	var b [16]byte
	if _, err := io.ReadFull(h.c.r, b[:]); err != nil {
		return err
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != magicOption {
		return fmt.Errorf("option begins with %#x: %w", magic, errProtocol)
	}
	h.opt = binary.BigEndian.Uint32(b[8:])
	n := binary.BigEndian.Uint32(b[12:])
	h.buf.Reset()
	if !h.fixed && h.opt != optExportName {
		return fmt.Errorf("option %d of a client that is not fixed newstyle: %w", h.opt, errProtocol)
	}
	if n > maxOption {
		if n > maxSkip || h.opt == optExportName {
			return fmt.Errorf("option %d of %d bytes: %w", h.opt, n, errProtocol)
		}
		if _, err := h.c.r.Discard(int(n)); err != nil {
			return unexpected(err)
		}
		return h.refuse(repErrTooBig, "the option is too long")
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(h.c.r, data); err != nil {
		return unexpected(err)
	}
	return h.answer(data)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// answer acts on one option.
func (h *handshake) answer(data []byte) error {
	if h.c.srv.cfg.RequireTLS && !h.secure && h.opt != optStartTLS && h.opt != optAbort {
		if h.opt == optExportName {
			return fmt.Errorf("export asked for without TLS: %w", errProtocol)
		}
		return h.refuse(repErrTLSReqd, "begin with TLS")
	}
	switch h.opt {
	case optExportName:
		return h.exportName(string(data))
	case optAbort:
		_ = h.ack()
		return errAborted
	case optStartTLS:
		return h.startTLS(data)
	case optList:
		return h.list(data)
	case optInfo, optGo:
		return h.infoOrGo(data)
	case optStructuredReply:
		if len(data) > 0 {
			return h.refuse(repErrInvalid, "the option takes no data")
		}
		h.structured = true
		return h.ack()
	case optListMetaContext, optSetMetaContext:
		return h.metaContext(data)
	}
	return h.refuse(repErrUnsup, "unknown option")
}

// reply adds one reply to the option.
func (h *handshake) reply(typ uint32, data []byte) {
	b := binary.BigEndian.AppendUint64(h.buf.AvailableBuffer(), magicOptReply)
	b = binary.BigEndian.AppendUint32(b, h.opt)
	b = binary.BigEndian.AppendUint32(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	h.buf.Write(b)
	h.buf.Write(data)
}

// refuse ends the answer to an option with an error.
func (h *handshake) refuse(typ uint32, why string) error {
	h.reply(typ, []byte(why))
	return h.send()
}

// ack ends the answer to an option with success.
func (h *handshake) ack() error {
	h.reply(repAck, nil)
	return h.send()
}

func (h *handshake) send() error {
	_, err := h.buf.WriteTo(h.c.nc)
	return err
}

// startTLS goes on under TLS, as if nothing had been said before. Bytes that came in the clear behind the option would be
// taken for protected ones: they end the connection.
func (h *handshake) startTLS(data []byte) error {
	c := h.c
	switch {
	case len(data) > 0:
		return h.refuse(repErrInvalid, "the option takes no data")
	case h.secure:
		return h.refuse(repErrInvalid, "TLS is there already")
	case c.srv.cfg.TLS == nil:
		return h.refuse(repErrPolicy, "this server has no TLS")
	case c.r.Buffered() > 0:
		return fmt.Errorf("data in the clear behind STARTTLS: %w", errProtocol)
	}
	if err := h.ack(); err != nil {
		return err
	}
	tc := tls.Server(c.nc, c.srv.cfg.TLS)
	if err := tc.Handshake(); err != nil {
		return fmt.Errorf("TLS: %w", unexpected(err))
	}
	c.nc = tc
	c.r.Reset(tc)
	h.secure, h.structured, h.context = true, false, nil
	return nil
}

// list names the exports.
func (h *handshake) list(data []byte) error {
	if len(data) > 0 {
		return h.refuse(repErrInvalid, "the option takes no data")
	}
	for _, name := range h.c.srv.names() {
		h.reply(repServer, append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...))
	}
	return h.ack()
}

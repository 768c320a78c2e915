package line

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/services/replicator/accept"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

const (
	maxWaiting = 64 // connections that owe their hello
	readBytes  = 64 << 10
	sayAgain   = time.Minute // the same trouble is logged once in this time
)

// Server takes the lines of every receiver of a site. Safe for concurrent use.
type Server struct {
	creds *identity.Credentials
	log   *slog.Logger

	waiting      chan struct{}
	helloTimeout time.Duration
	writeTimeout time.Duration

	mu      sync.Mutex
	address string
	offers  map[[sha256.Size]byte]*offer // by the sum of the token: how long a look-up takes says nothing of a token
	said    map[string]time.Time
}

// NewServer makes a server that others reach at address (see At). Without credentials (nil) its lines are plain TCP.
func NewServer(address string, creds *identity.Credentials, log *slog.Logger) *Server {
	return &Server{address: address, creds: creds, log: log, waiting: make(chan struct{}, maxWaiting), helloTimeout: helloTimeout,
		writeTimeout: writeTimeout, offers: map[[sha256.Size]byte]*offer{}, said: map[string]time.Time{}}
}

// At says where others reach the server from now on; empty: nowhere, as it does not listen.
func (s *Server) At(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address = address
}

// Address is where others reach the server; empty: nowhere.
func (s *Server) Address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.address
}

// Serve takes connections until ctx ends or the listener fails, and closes it. nil when ctx ended. See accept.Loop.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return accept.Loop(ctx, ln, s.log, s.serve)
}

// Open offers a line to whoever shows the token, until closing it. take is called with one message after the other, never
// concurrently, and its ack is sent back. A message begins on a page and is take's to keep. An error of take, or closing the offer,
// ends the connection; another may follow an error. A second connection with the same token ends the first, and is welcomed once take
// has returned to that. take's ctx ends with the offer, with the server, and when another connection comes.
//
// closing waits until take does not run any more, and take is not called again. It may be called more than once, and not from take.
func (s *Server) Open(take func(ctx context.Context, message []byte) (Ack, error)) (o Offer, closing func()) {
	var secret [secretBytes]byte
	_, _ = rand.Read(secret[:]) // never fails: see its documentation
	o = Offer{Address: s.Address(), Token: encoding.EncodeToString(secret[:])}
	key, of := sha256.Sum256([]byte(o.Token)), &offer{take: take}
	s.mu.Lock()
	s.offers[key] = of
	s.mu.Unlock()
	return o, func() {
		s.mu.Lock()
		delete(s.offers, key)
		s.mu.Unlock()
		of.close()
	}
}

func (s *Server) find(token string) *offer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offers[sha256.Sum256([]byte(token))]
}

// serve has one connection from its first byte on.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	defer func() { _ = nc.Close() }()
	from := nc.RemoteAddr().String()
	select {
	case s.waiting <- struct{}{}:
	default:
		s.warn("line refused: too many connections wait for a hello", from, errors.New("see who connects there, and keep it to the sites"))
		return
	}
	c, r, of, err := s.greet(ctx, nc, from)
	<-s.waiting
	if err != nil {
		s.log.Debug("no line", "address", from, "error", err)
	}
	if of == nil {
		return
	}
	t := of.enter(cancel)
	defer close(t.ended)
	t.await()
	s.log.Debug("line begins", "address", from)
	err = s.carry(ctx, c, r, of)
	s.log.Debug("line ended", "address", from, "error", err)
}

// greet takes the hello: the connection to go on with, and the offer it shows the token of; nil when it shows none, which is answered.
func (s *Server) greet(ctx context.Context, nc net.Conn, from string) (net.Conn, *bufio.Reader, *offer, error) {
	tune(nc)
	if err := nc.SetDeadline(time.Now().Add(s.helloTimeout)); err != nil {
		return nil, nil, nil, err
	}
	if s.creds != nil {
		conf, err := proof(s.creds, anyReplicator)
		if err != nil {
			return nil, nil, nil, err
		}
		secured := tls.Server(nc, conf)
		if err := secured.HandshakeContext(ctx); err != nil {
			if err = orRefused(err); errors.Is(err, domain.ErrRefused) {
				s.warn("line refused: no TLS with the sender", from, err)
			}
			linger(nc)
			return nil, nil, nil, err
		}
		nc = secured
	}
	r := bufio.NewReaderSize(nc, readBytes)
	token, err := readHello(r)
	of := s.find(token)
	switch {
	case errors.Is(err, errVersion):
		s.warn("line refused: a hello of another version", from, errors.New("upgrade the older of the two sites"))
		_, err = nc.Write([]byte{otherVersion})
		return nil, nil, nil, err
	case err != nil:
		return nil, nil, nil, err
	case of == nil:
		s.warn("line refused: unknown token", from, errors.New("its receiver has ended, and the sender rejoins; or somebody guesses"))
		_, err = nc.Write([]byte{unknownToken})
		return nil, nil, nil, err
	}
	return nc, r, of, nc.SetDeadline(time.Time{})
}

// carry welcomes a sender, and takes its messages until something ends it.
func (s *Server) carry(ctx context.Context, nc net.Conn, r *bufio.Reader, of *offer) error {
	write := func(b []byte) error {
		if err := nc.SetWriteDeadline(time.Now().Add(s.writeTimeout)); err != nil {
			return err
		}
		_, err := nc.Write(b)
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := write([]byte{welcome}); err != nil {
		return err
	}
	begins, out := new([headBytes]byte), new([ackBytes]byte)
	for {
		if _, err := io.ReadFull(r, begins[:]); err != nil {
			return err
		}
		h, err := parseHead(begins)
		if err != nil {
			return err
		}
		message := vfs.Aligned(h.length) // zeroes
		if _, err := io.ReadFull(r, message[:h.gapAt]); err != nil {
			return fmt.Errorf("read a message of %d bytes: %w", h.length, err)
		}
		if _, err := io.ReadFull(r, message[h.gapAt+h.gap:]); err != nil {
			return fmt.Errorf("read a message of %d bytes: %w", h.length, err)
		}
		if ctx.Err() != nil {
			return ctx.Err() // what had come already is not taken after the end
		}
		ack, err := of.take(ctx, message)
		if err != nil {
			return fmt.Errorf("take a message of %d bytes: %w", h.length, err)
		}
		ack.put(out)
		if err := write(out[:]); err != nil {
			return fmt.Errorf("write an ack: %w", err)
		}
	}
}

// linger lets a peer read why it is refused: closing with something unread would take that from it. It ends when the peer closes, or
// with the time for the hello.
func linger(nc net.Conn) {
	if tcp, ok := nc.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(nc, readBytes))
	}
}

// warn logs a trouble, each kind of it once in a while: anybody who reaches the port may cause it.
func (s *Server) warn(text, from string, err error) {
	s.mu.Lock()
	at, ok := s.said[text]
	now := time.Now()
	if ok = ok && now.Sub(at) < sayAgain; !ok {
		s.said[text] = now
	}
	s.mu.Unlock()
	if !ok {
		s.log.Warn(text, "address", from, "error", err)
	}
}

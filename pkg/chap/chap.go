// Package chap reads the secrets with which VM hosts and a site's iSCSI target prove themselves to one another (CHAP, RFC
// 7143 section 12.1.3). Each secret is a file of mode 0600 with the secret on its first line. While a secret is changed
// the file has two lines, the new one and the old one: whoever checks takes either, whoever proves itself uses the first.
//
// The files are read again at each login, so a change needs no restart and no session ends for it.
package chap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// maxFile bounds a secret's file, in bytes; two secrets are far shorter.
const maxFile = 4096

// Settings say where the credentials are. The zero value is none.
type Settings struct {
	User       string // of the initiator
	SecretFile string
	// MutualUser and MutualSecretFile are how the target proves itself in return; both empty for one way only.
	MutualUser, MutualSecretFile string
}

// Credentials are what the files said when they were read. The zero value is none.
type Credentials struct {
	User          string
	Secrets       []string // one or two, the one in use first
	MutualUser    string
	MutualSecrets []string // none, one or two
}

// Read reads the files. Errors wrap domain.ErrInvalid, and fs.ErrNotExist or fs.ErrPermission where that is the cause, and
// name the file and the mend.
func Read(s Settings) (Credentials, error) {
	if s.User == "" {
		return Credentials{}, nil
	}
	c := Credentials{User: s.User, MutualUser: s.MutualUser}
	var err error
	if c.Secrets, err = readFile(s.SecretFile); err != nil {
		return Credentials{}, err
	}
	if s.MutualUser == "" {
		return c, nil
	}
	if c.MutualSecrets, err = readFile(s.MutualSecretFile); err != nil {
		return Credentials{}, err
	}
	for _, a := range c.Secrets {
		for _, b := range c.MutualSecrets {
			if a == b { // or one side could be made to answer its own challenge (RFC 7143 section 9.2.1)
				return Credentials{}, fmt.Errorf("CHAP secret files %s and %s: %w: they hold the same secret: give each direction one of its own",
					s.SecretFile, s.MutualSecretFile, domain.ErrInvalid)
			}
		}
	}
	return c, nil
}

func readFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, bad(path, cause(err), "put the secret, of at least 12 bytes, on its first line, with mode 0600 and owned by the user that the service runs as")
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, bad(path, cause(err), "try again")
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, bad(path, errors.New("not a small plain file"), "name the file that holds the secret")
	case info.Mode().Perm()&0o077 != 0:
		return nil, bad(path, fmt.Errorf("others than its owner may use it (mode %04o)", info.Mode().Perm()), "run chmod 600 "+path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, bad(path, cause(err), "try again")
	}
	return split(path, raw)
}

// split takes a file's lines apart.
func split(path string, raw []byte) ([]string, error) {
	var out []string
	for i, line := range bytes.Split(bytes.TrimRight(raw, "\r\n"), []byte("\n")) {
		line = bytes.TrimRight(line, "\r")
		switch {
		case i > 1:
			return nil, bad(path, errors.New("it has more than two lines"), "keep the new secret on the first line and the old one on the second")
		case len(line) < iscsi.MinSecretLen:
			return nil, bad(path, fmt.Errorf("the secret on line %d has %d bytes", i+1, len(line)), fmt.Sprintf("RFC 7143 wants at least %d (96 bits)", iscsi.MinSecretLen))
		case bytes.IndexByte(line, 0) >= 0:
			return nil, bad(path, fmt.Errorf("the secret on line %d is no text", i+1), "write printable characters")
		}
		out = append(out, string(line))
	}
	return out, nil
}

func bad(path string, what error, mend string) error {
	return fmt.Errorf("read CHAP secret file %s: %w: %w: %s", path, domain.ErrInvalid, what, mend)
}

// cause is the bare reason of a file's error, whose path stands elsewhere.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Source gives the credentials as the files have them now. Files that are damaged while it is in use are told in the log,
// and what was read last stays good.
type Source struct {
	settings Settings
	log      *slog.Logger

	mu   sync.Mutex
	last Credentials
	told string // the fault that was logged last
}

// Open reads the credentials for the first time. Its errors are those of Read. Without a user it returns nil, which gives
// no credentials.
func Open(s Settings, log *slog.Logger) (*Source, error) {
	if s.User == "" {
		return nil, nil
	}
	c, err := Read(s)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Source{settings: s, log: log, last: c}, nil
}

// Current is what the files say now, or said last.
func (s *Source) Current() Credentials {
	if s == nil {
		return Credentials{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := Read(s.settings)
	switch {
	case err == nil:
		s.last, s.told = c, ""
	case s.told != err.Error():
		s.told = err.Error()
		s.log.Warn("CHAP secret not readable, the one read before stays in use", "error", err)
	}
	return s.last
}

// Initiator is what a VM host logs in with, as it is now; it is fit for initiator.Options.Credentials. A nil Source has
// none.
func (s *Source) Initiator() initiator.CHAP {
	c := s.Current()
	out := initiator.CHAP{User: c.User, MutualUser: c.MutualUser}
	if len(c.Secrets) > 0 {
		out.Secret = c.Secrets[0]
	}
	if len(c.MutualSecrets) > 0 {
		out.MutualSecret = c.MutualSecrets[0]
	}
	if len(c.MutualSecrets) > 1 {
		out.MutualOld = c.MutualSecrets[1]
	}
	return out
}

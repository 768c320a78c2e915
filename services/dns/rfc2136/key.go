package rfc2136

import (
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/miekg/dns"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

// Key is a TSIG key (RFC 8945) that the server knows under the same name.
type Key struct {
	Name      string
	Algorithm string // hmac-sha256 (also when empty), hmac-sha384 or hmac-sha512
	Secret    string // base64
}

// String names the key without its secret.
func (k Key) String() string { return "key " + k.Name }

// GoString is String: no format prints the secret.
func (k Key) GoString() string { return k.String() }

var algorithms = map[string]string{
	"": dns.HmacSHA256, "hmac-sha256": dns.HmacSHA256, "hmac-sha384": dns.HmacSHA384, "hmac-sha512": dns.HmacSHA512,
}

func (k Key) canonical() (Key, error) {
	name, err := zone.CanonicalName(k.Name)
	if err != nil {
		return Key{}, fmt.Errorf("TSIG key: %w", err)
	}
	alg, ok := algorithms[strings.ToLower(strings.TrimSuffix(k.Algorithm, "."))]
	if !ok {
		return Key{}, fmt.Errorf("TSIG key %s: algorithm %q: %w: want hmac-sha256, hmac-sha384 or hmac-sha512", k.Name, k.Algorithm, domain.ErrInvalid)
	}
	if raw, err := base64.StdEncoding.DecodeString(k.Secret); err != nil || len(raw) == 0 {
		return Key{}, fmt.Errorf("TSIG key %s: %w: the secret is not base64; make one with tsig-keygen", k.Name, domain.ErrInvalid)
	}
	return Key{Name: name, Algorithm: alg, Secret: k.Secret}, nil
}

var (
	keyName      = regexp.MustCompile(`key\s+"?([^"\s{;]+)"?\s*\{`)
	keyAlgorithm = regexp.MustCompile(`algorithm\s+"?([A-Za-z0-9-]+)"?\s*;`)
	keySecret    = regexp.MustCompile(`secret\s+"?([A-Za-z0-9+/=]+)"?\s*;`)
)

// ReadKey reads a key file as BIND's tsig-keygen writes it: key "name" { algorithm hmac-sha256; secret "..."; };
func ReadKey(path string) (Key, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read TSIG key: %w", err)
	}
	name, alg, secret := keyName.FindSubmatch(raw), keyAlgorithm.FindSubmatch(raw), keySecret.FindSubmatch(raw)
	if name == nil || alg == nil || secret == nil {
		return Key{}, fmt.Errorf(`read TSIG key %s: %w: want key "name" { algorithm hmac-sha256; secret "..."; }; as tsig-keygen writes it`, path, domain.ErrInvalid)
	}
	k := Key{Name: string(name[1]), Algorithm: string(alg[1]), Secret: string(secret[1])}
	if _, err := k.canonical(); err != nil {
		return Key{}, fmt.Errorf("read TSIG key %s: %w", path, err)
	}
	return k, nil
}

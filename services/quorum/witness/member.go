package witness

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// member is a cluster with what it has used of its quota.
type member struct {
	name  string
	quota Quota
	cas   []*x509.Certificate
	roots *x509.CertPool
	votes *rate.Limiter
	bytes *rate.Limiter

	mu          sync.Mutex
	groups      map[domain.GroupID]bool
	connections int
	refused     int // since the log told of it
}

func newMember(c Cluster, groups []domain.GroupID) (*member, error) {
	if !domain.ValidToken(c.Name) {
		return nil, fmt.Errorf("witness: cluster %q: not a name: %w", c.Name, domain.ErrInvalid)
	}
	if err := c.Quota.Validate(); err != nil {
		return nil, fmt.Errorf("witness: cluster %s: %w", c.Name, err)
	}
	m := &member{name: c.Name, quota: c.Quota, roots: x509.NewCertPool(), groups: map[domain.GroupID]bool{},
		// A takeover of every group at once fits into the burst: a probe, a prepare and an accept of each.
		votes: rate.NewLimiter(rate.Limit(c.Quota.Votes), max(2*c.Quota.Votes, 2*(1+2*durableCost)*c.Quota.Groups)),
		bytes: rate.NewLimiter(rate.Limit(c.Quota.Bytes), max(2*c.Quota.Bytes, maxBytes))}
	for _, g := range groups {
		m.groups[g] = true
	}
	for rest := c.CA; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("witness: cluster %s: its authority: %w: %w", c.Name, domain.ErrInvalid, err)
		}
		m.roots.AddCert(cert)
		m.cas = append(m.cas, cert)
	}
	if len(m.cas) == 0 {
		return nil, fmt.Errorf("witness: cluster %s: its authority holds no certificate in PEM: give the secrets/trust/ca.pem of one of its sites: %w", c.Name, domain.ErrInvalid)
	}
	return m, nil
}

// shares reports whether two clusters have an authority's key in common.
func (m *member) shares(other *member) bool {
	for _, a := range m.cas {
		for _, b := range other.cas {
			if bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo) {
				return true
			}
		}
	}
	return false
}

// whose is the cluster and site that a connection's certificate proves. The error wraps domain.ErrRefused.
func (s *server) whose(cs tls.ConnectionState) (*member, domain.SiteID, error) {
	if len(cs.PeerCertificates) == 0 {
		return nil, "", fmt.Errorf("witness: no certificate was shown: %w", domain.ErrRefused)
	}
	leaf := cs.PeerCertificates[0]
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	for _, m := range s.byCA {
		if !m.maySign(cs.PeerCertificates) {
			continue
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: m.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			continue
		}
		site, service, ok := strings.Cut(leaf.Subject.CommonName, ".")
		if !ok || service != "quorum" || !domain.ValidToken(site) {
			return nil, "", fmt.Errorf("witness: certificate of %q of cluster %s: only a site's quorum service may vote: %w", leaf.Subject.CommonName, m.name, domain.ErrRefused)
		}
		return m, domain.SiteID(site), nil
	}
	return nil, "", fmt.Errorf("witness: certificate of %q, signed by %q: of no cluster that this witness votes for: %w", leaf.Subject.CommonName, leaf.Issuer.CommonName, domain.ErrRefused)
}

// maySign reports whether a certificate of a chain names one of the cluster's authorities as its issuer: the others need not be tried.
func (m *member) maySign(chain []*x509.Certificate) bool {
	for _, c := range chain {
		for _, ca := range m.cas {
			if bytes.Equal(c.RawIssuer, ca.RawSubject) {
				return true
			}
		}
	}
	return false
}

// enter counts a connection. over names the quota that it is beyond.
func (m *member) enter() (over string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.connections >= m.quota.Connections {
		return fmt.Sprintf("%d connections", m.quota.Connections)
	}
	m.connections++
	return ""
}

func (m *member) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.connections--
}

// admits reports whether a group has, or now gets, a record.
func (m *member) admits(g domain.GroupID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.groups[g] && len(m.groups) >= m.quota.Groups {
		return false
	}
	m.groups[g] = true
	return true
}

// overQuota is a refusal, by the cluster's name.
func (m *member) overQuota(what string) error {
	return fmt.Errorf("witness: cluster %s is over its quota of %s: %w", m.name, what, domain.ErrRefused)
}

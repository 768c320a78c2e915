package sitefolder

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Options are what holdfast site init is told.
type Options struct {
	Dir      string
	Name     domain.SiteID
	Role     domain.SiteRole
	Address  string // HOST[:PORT] where the other sites reach this site's NATS server
	Index    int    // 0: the founder's is 1, a data site's the next after the peers', a witness's one from 101
	Peers    []string
	Cluster  string // of a new installation; others take their peers'
	CACert   string // with CAKey: the user's own authority signs
	CAKey    string
	Zone     string
	Hosts    []string // ids of VM hosts; none: NAME-h1 at a data site
	Groups   string   // a file with hosts, groups or plans to put into site.yaml
	Embedded bool     // the NATS server runs inside holdfast site
	Listen   string   // the address to listen on where it is not that of Address
	Force    bool
}

const (
	defaultPort    = 4222
	defaultCluster = "main"
	maxIndex       = 255
	firstWitness   = 101 // the least index that a witness is given by itself
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("make the site's folder: %w: "+format, append([]any{domain.ErrInvalid}, args...)...)
}

// check completes the options, or says what is wrong with them.
func (o *Options) check() error {
	switch {
	case o.Dir == "":
		return invalid("no folder: give --dir DIR")
	case !domain.ValidToken(string(o.Name)):
		return invalid("--name %q is not a name: use 1 to 32 of a-z, 0-9 and '-', not beginning or ending with '-'", o.Name)
	case o.Role != domain.SiteData && o.Role != domain.SiteWitness:
		return invalid("--role %q is not known: use %s or %s", o.Role, domain.SiteData, domain.SiteWitness)
	case o.Index < 0 || o.Index > maxIndex:
		return invalid("--index %d is out of range: give the site a number of 1 to %d of its own", o.Index, maxIndex)
	case o.Cluster != "" && !domain.ValidToken(o.Cluster):
		return invalid("--cluster %q is not a name: use 1 to 32 of a-z, 0-9 and '-'", o.Cluster)
	case (o.CACert == "") != (o.CAKey == ""):
		return invalid("an authority of your own needs both --ca-cert and --ca-key")
	case o.CACert != "" && len(o.Peers) > 0:
		return invalid("--ca-cert belongs to the site that founds the installation: leave it out where --peer is given")
	case o.Role == domain.SiteWitness && (len(o.Hosts) > 0 || o.Zone != ""):
		return invalid("a witness site has neither VM hosts nor a zone: leave out --host-id and --zone, or make it --role data")
	}
	for _, h := range o.Hosts {
		if !domain.ValidToken(h) {
			return invalid("--host-id %q is not a name: use 1 to 32 of a-z, 0-9 and '-'", h)
		}
	}
	if len(o.Hosts) == 0 && o.Role == domain.SiteData {
		o.Hosts = []string{string(o.Name) + "-h1"}
	}
	o.Dir = filepath.Clean(o.Dir)
	if err := o.checkAddress(); err != nil {
		return err
	}
	return o.checkFree()
}

func (o *Options) checkAddress() error {
	if o.Address == "" {
		return invalid("no --address: give HOST or HOST:PORT where the other sites reach this site's NATS server")
	}
	host, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		host, port = o.Address, strconv.Itoa(defaultPort)
	}
	n, err := strconv.Atoi(port)
	ip := net.ParseIP(host)
	switch {
	case host == "" || err != nil || n < 1 || n > 65535 || ip == nil && !validHostname(host):
		return invalid("--address %q is no address: give HOST or HOST:PORT, for example 192.0.2.1:4222 or nats.a.example.org", o.Address)
	case ip != nil && ip.IsUnspecified():
		return invalid("--address %q is everywhere and nowhere: give the address at which the other sites reach this one; --listen says where to listen", o.Address)
	}
	o.Address = net.JoinHostPort(host, port)
	if o.Listen == "" {
		o.Listen = host
	}
	if net.ParseIP(o.Listen) == nil && !validHostname(o.Listen) {
		return invalid("--listen %q is no address: give a host without a port", o.Listen)
	}
	return nil
}

func validHostname(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 253
}

// checkFree refuses a folder that has something in it, unless it holds nothing but what may be made again.
func (o *Options) checkFree() error {
	entries, err := os.ReadDir(o.Dir)
	if os.IsNotExist(err) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return invalid("%v: name a folder that can be made", err)
	}
	if o.Force {
		return nil
	}
	if _, err := os.Stat(Folder(o.Dir).Config()); err == nil {
		return invalid("%s is the folder of a site already: to add sites to it use holdfast site join, to renew its certificates holdfast site rotate; to begin again move it away", o.Dir)
	}
	return invalid("%s is not empty: name another folder, or empty it", o.Dir)
}

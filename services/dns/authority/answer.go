package authority

import (
	"net"

	"github.com/miekg/dns"

	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

// udpSize is the largest UDP reply sent and the size advertised: it crosses any path unfragmented (DNS flag day 2020).
const udpSize = 1232

// answerer makes replies. It reads nothing but its arguments, so that a test or a fuzzer can call it as the server does.
type answerer struct {
	nameServers []string // canonical
	mailbox     string   // canonical
	negativeTTL uint32   // seconds
	serving     func(name string) bool
}

// reply answers req from z. It never returns nil and never looks anywhere else: no recursion, no referral.
func (a answerer) reply(z zone.Zone, req *dns.Msg, overTCP bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(req)
	m.RecursionAvailable = false
	m.Compress = true
	opt, ok := ednsOf(req)
	switch {
	case !ok || len(req.Question) != 1:
		m.Rcode = dns.RcodeFormatError
	case opt != nil && opt.Version() != 0:
		m.Rcode = dns.RcodeBadVers // RFC 6891 section 6.1.3
	case req.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
	default:
		a.fill(z, m, req.Question[0])
	}
	size := dns.MinMsgSize
	if opt != nil {
		m.SetEdns0(udpSize, opt.Do())
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
	}
	if overTCP {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	return m
}

// ednsOf is the request's OPT record; ok is false when there are two, or one that is not at the root.
func ednsOf(req *dns.Msg) (opt *dns.OPT, ok bool) {
	for _, rr := range req.Extra {
		o, is := rr.(*dns.OPT)
		if !is {
			continue
		}
		if opt != nil || o.Hdr.Name != "." {
			return nil, false
		}
		opt = o
	}
	return opt, true
}

func (a answerer) fill(z zone.Zone, m *dns.Msg, q dns.Question) {
	name := dns.CanonicalName(q.Name)
	switch {
	case z.Origin() == "" || q.Qclass != dns.ClassINET || !dns.IsSubDomain(z.Origin(), name):
		m.Rcode = dns.RcodeRefused
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		m.Rcode = dns.RcodeRefused
	case q.Qtype == dns.TypeOPT || q.Qtype == dns.TypeTSIG || q.Qtype == dns.TypeNone:
		m.Rcode = dns.RcodeFormatError
	case name == z.Origin():
		a.fillApex(z, m, q)
	case !z.Exists(name):
		m.Authoritative = true
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{a.soa(z, a.negativeTTL)}
	case !a.serving(name):
		m.Rcode = dns.RcodeServerFailure
	default:
		m.Authoritative = true
		m.Answer = addresses(z, name, q)
		if len(m.Answer) == 0 {
			m.Ns = []dns.RR{a.soa(z, a.negativeTTL)}
		}
	}
}

// fillApex answers for the zone itself. A question for any type gets one of them (RFC 8482 section 4.1).
func (a answerer) fillApex(z zone.Zone, m *dns.Msg, q dns.Question) {
	m.Authoritative = true
	switch q.Qtype {
	case dns.TypeSOA, dns.TypeANY:
		m.Answer = []dns.RR{a.soa(z, apexTTL)}
	case dns.TypeNS:
		for _, ns := range a.nameServers {
			m.Answer = append(m.Answer, &dns.NS{Hdr: header(z.Origin(), dns.TypeNS, apexTTL), Ns: ns})
			for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
				m.Extra = append(m.Extra, addresses(z, ns, dns.Question{Name: ns, Qtype: t})...)
			}
		}
	default:
		m.Ns = []dns.RR{a.soa(z, a.negativeTTL)}
	}
}

// addresses are the records of name that q asks for, under the name as it was asked (resolvers vary its case and check).
func addresses(z zone.Zone, name string, q dns.Question) []dns.RR {
	for _, t := range []zone.Type{zone.A, zone.AAAA} {
		if q.Qtype != dns.TypeANY && q.Qtype != dns.StringToType[string(t)] {
			continue
		}
		r, ok := z.Lookup(name, t)
		if !ok {
			continue
		}
		if t == zone.A {
			return []dns.RR{&dns.A{Hdr: header(q.Name, dns.TypeA, r.TTL), A: net.ParseIP(r.Value)}}
		}
		return []dns.RR{&dns.AAAA{Hdr: header(q.Name, dns.TypeAAAA, r.TTL), AAAA: net.ParseIP(r.Value)}}
	}
	return nil
}

// apexTTL is the TTL of SOA and NS, in seconds.
const apexTTL = 60

// soa is the start of authority. A negative answer carries it with the negative TTL (RFC 2308 section 3).
func (a answerer) soa(z zone.Zone, ttl uint32) dns.RR {
	return &dns.SOA{Hdr: header(z.Origin(), dns.TypeSOA, ttl), Ns: a.nameServers[0], Mbox: a.mailbox, Serial: z.Serial(),
		Refresh: 60, Retry: 30, Expire: 604800, Minttl: a.negativeTTL}
}

func header(name string, t uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

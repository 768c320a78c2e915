package rfc2136

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

// decide holds ch against what was found. todo is false when ch was done before.
func decide(ch zone.Change, found standing) (todo bool, err error) {
	switch {
	case found.group != "" && found.group != ch.Group:
		return false, fmt.Errorf("the name belongs to group %s: %w", found.group, domain.ErrRefused)
	case found.epoch > ch.Epoch:
		return false, fmt.Errorf("epoch %s is below %s, under which %s stands: %w", ch.Epoch, found.epoch, zone.Show(found.String()), domain.ErrStaleEpoch)
	case !found.holds(ch.New) && !ch.OldIsAny && !found.holds(ch.Old):
		return false, fmt.Errorf("expected %s, found %s: %w", zone.Show(ch.Old), zone.Show(found.String()), domain.ErrConflict)
	case !found.holds(ch.New):
		return true, nil
	case found.epochKept && found.epoch < ch.Epoch:
		return true, nil
	}
	return ch.Old == ch.New && !ch.OldIsAny && ch.TTL != 0 && ch.TTL != found.ttl, nil
}

// update sends ch on the condition that what was found still stands. raced: it does not, and nothing was changed.
func (c *Client) update(ctx context.Context, ch zone.Change, found standing) (raced bool, err error) {
	m := c.message(ch, found)
	m.SetTsig(c.cfg.Key.Name, c.cfg.Key.Algorithm, tsigFudge, c.cfg.Now().Unix())
	r, err := c.exchange(ctx, m)
	if r == nil {
		return false, fmt.Errorf("update: %w", unavailable(err))
	}
	switch r.Rcode {
	case dns.RcodeSuccess:
		return false, nil // a reply whose signature does not verify too: reading back tells
	case dns.RcodeYXDomain, dns.RcodeYXRrset, dns.RcodeNXRrset, dns.RcodeNameError:
		return true, nil
	}
	return false, fmt.Errorf("update: %w", c.refusal(r))
}

// message is the update: conditions in the answer section, changes in the authority section (RFC 2136 section 2).
func (c *Client) message(ch zone.Change, found standing) *dns.Msg {
	m := new(dns.Msg).SetUpdate(c.cfg.Zone)
	rrset := []dns.RR{addressRR(ch.Name, ch.Type, "", 0)}
	if len(found.values) == 0 {
		m.RRsetNotUsed(rrset)
	} else {
		for _, v := range found.values {
			m.Used([]dns.RR{addressRR(ch.Name, ch.Type, v, 0)})
		}
		m.RemoveRRset(rrset)
	}
	ttl := ch.TTL
	if ttl == 0 {
		ttl = found.ttl
	}
	if ttl == 0 {
		ttl = zone.DefaultTTL
	}
	if ch.New != "" {
		m.Insert([]dns.RR{addressRR(ch.Name, ch.Type, ch.New, ttl)})
	}
	if !c.cfg.EpochTXT {
		return m
	}
	if found.epochText == nil {
		m.RRsetNotUsed([]dns.RR{epochRR(ch.Name, nil)})
	} else {
		m.Used([]dns.RR{epochRR(ch.Name, found.epochText)})
		m.RemoveRRset([]dns.RR{epochRR(ch.Name, nil)})
	}
	m.Insert([]dns.RR{epochRR(ch.Name, []string{epochText(ch.Group, ch.Epoch)})})
	return m
}

// refusal says why the server would not, and what mends it.
func (c *Client) refusal(r *dns.Msg) error {
	if t := r.IsTsig(); t != nil && t.Error != 0 {
		switch t.Error {
		case dns.RcodeBadKey:
			return fmt.Errorf("the server knows no TSIG %s (BADKEY): %w: add the key to the server under this name and algorithm", c.cfg.Key, domain.ErrRefused)
		case dns.RcodeBadSig:
			return fmt.Errorf("the server does not accept the signature of TSIG %s (BADSIG): %w: the secret or the algorithm is not the server's", c.cfg.Key, domain.ErrRefused)
		case dns.RcodeBadTime:
			return fmt.Errorf("the clocks differ by more than %d s (BADTIME)%s: %w: set the time of this host and of the server by NTP", tsigFudge, c.apart(t), domain.ErrRefused)
		}
	}
	name := dns.RcodeToString[r.Rcode]
	switch r.Rcode {
	case dns.RcodeNotAuth, dns.RcodeNotZone:
		return fmt.Errorf("the server is not the primary of zone %s (%s): %w: name the zone's primary", c.cfg.Zone, name, domain.ErrRefused)
	case dns.RcodeRefused:
		return fmt.Errorf("the server's policy refuses TSIG %s (REFUSED): %w: allow it A, AAAA and TXT in zone %s (BIND: update-policy or allow-update)",
			c.cfg.Key, domain.ErrRefused, c.cfg.Zone)
	case dns.RcodeServerFailure:
		return fmt.Errorf("the server answers SERVFAIL, see its log (BIND: is the zone's directory writable?): %w", domain.ErrUnavailable)
	}
	return fmt.Errorf("the server answers %s: %w: does it take dynamic updates for zone %s?", name, domain.ErrRefused, c.cfg.Zone)
}

// apart says how far the server's clock is from this host's: with BADTIME it tells its own (RFC 8945 section 5.2.3).
func (c *Client) apart(t *dns.TSIG) string {
	raw, err := hex.DecodeString(t.OtherData)
	if err != nil || len(raw) != 6 {
		return ""
	}
	var server int64
	for _, b := range raw {
		server = server<<8 | int64(b)
	}
	here := c.cfg.Now()
	d := here.Sub(time.Unix(server, 0)).Round(time.Second)
	which := "ahead of"
	if d < 0 {
		which = "behind"
	}
	return fmt.Sprintf(": this host says %s and is %s %s the server, which says %s", here.UTC().Format(time.RFC3339), d.Abs(), which, time.Unix(server, 0).UTC().Format(time.RFC3339))
}

func addressRR(name string, t zone.Type, value string, ttl uint32) dns.RR {
	h := dns.RR_Header{Name: name, Rrtype: dns.StringToType[string(t)], Class: dns.ClassINET, Ttl: ttl}
	if t == zone.A {
		return &dns.A{Hdr: h, A: net.ParseIP(value)}
	}
	return &dns.AAAA{Hdr: h, AAAA: net.ParseIP(value)}
}

func epochRR(name string, text []string) dns.RR {
	return &dns.TXT{Hdr: dns.RR_Header{Name: epochName(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: zone.DefaultTTL}, Txt: text}
}

const (
	groupField = "group="
	epochField = "epoch="
)

func epochText(g domain.GroupID, e domain.Epoch) string {
	return groupField + string(g) + " " + epochField + e.String()
}

// setEpoch reads the TXT record that epochText made. One that cannot be read is refused: who wrote it is not known.
func (s *standing) setEpoch(answer []dns.RR) error {
	for _, rr := range answer {
		txt, ok := rr.(*dns.TXT)
		if !ok {
			continue
		}
		if s.epochText != nil {
			return fmt.Errorf("%s holds more than one TXT record: %w: leave the one with the highest epoch", txt.Hdr.Name, domain.ErrRefused)
		}
		s.epochText = txt.Txt
		group, epoch, ok := strings.Cut(strings.Join(txt.Txt, ""), " ")
		e, err := domain.ParseEpoch(strings.TrimPrefix(epoch, epochField))
		if !ok || err != nil || !strings.HasPrefix(group, groupField) || !strings.HasPrefix(epoch, epochField) || e <= 0 {
			return fmt.Errorf("%s holds %q, which Holdfast did not write: %w: remove it, or turn epoch_txt off", txt.Hdr.Name, txt.Txt, domain.ErrRefused)
		}
		s.group, s.epoch = domain.GroupID(strings.TrimPrefix(group, groupField)), e
	}
	return nil
}

//go:build e2e

package quorum

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/fleet"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// kind is one kind of fault. strike strikes and heals, and tells what it did.
type kind struct {
	name   string
	strike func(*bed) string
}

func kinds() []kind {
	return []kind{
		{"cut-site", (*bed).cutSite},
		{"cut-pair", (*bed).cutPair},
		{"deaf", (*bed).deafSite},
		{"deaf-witness", (*bed).deafWitness},
		{"loss", (*bed).lossy},
		{"freeze-site", (*bed).freezeSite},
		{"freeze-service", (*bed).freezeService},
		{"kill-site", (*bed).killSite},
		{"kill-service", (*bed).killService},
		{"clock-step", (*bed).stepClock},
		{"disk-full", (*bed).fillDisk},
		{"old-copy", (*bed).restoreOldCopy},
	}
}

// anySite is the one that serves as often as not.
func (b *bed) anySite() string { return oneOf(b.rng, b.holder, b.holder, other(b.holder), "w") }

// strikeAt keeps a fault of a whole site: until the other serves when the site served, and for more than a lease otherwise.
func (b *bed) strikeAt(site string, since time.Time) {
	b.t.Helper()
	if site == b.holder {
		b.takenOver(since)
	} else {
		b.last()
	}
}

func (b *bed) cutSite() string {
	site := b.anySite()
	b.faulty(isolated(site))
	since := time.Now()
	b.strikeAt(site, since)
	b.faulty(nil)
	return fmt.Sprintf("site %s cut off from both others for %s", site, time.Since(since).Round(time.Millisecond))
}

func (b *bed) cutPair() string {
	pair := oneOf(b.rng, []string{"a", "b"}, []string{"a", "w"}, []string{"b", "w"})
	b.lasting(cut(pair[0], pair[1]))
	return fmt.Sprintf("sites %s and %s cut off from one another", pair[0], pair[1])
}

func (b *bed) deafSite() string {
	site := oneOf(b.rng, dataSites...)
	all, text := []deaf{{site, other(site), 100}}, "the other data site"
	if b.rng.IntN(2) == 0 {
		all, text = append(all, deaf{site, "w", 100}), "both others"
	}
	b.lasting(all)
	return fmt.Sprintf("site %s did not hear %s, which heard it", site, text)
}

func (b *bed) deafWitness() string {
	site := oneOf(b.rng, dataSites...)
	d := oneOf(b.rng, deaf{site, "w", 100}, deaf{"w", site, 100})
	b.lasting([]deaf{d})
	return fmt.Sprintf("site %s did not hear site %s, which heard it", d.at, d.to)
}

func (b *bed) lossy() string {
	site, percent := b.anySite(), 20+b.rng.IntN(61)
	var all []deaf
	for _, o := range sites {
		if o != site && (len(all) == 0 || b.rng.IntN(2) == 0) {
			all = append(all, deaf{site, o, percent})
		}
	}
	b.lasting(all)
	return fmt.Sprintf("site %s lost %d %% of what %d sites sent", site, percent, len(all))
}

// shuffled are all processes of a site, in an order that is drawn.
func (b *bed) shuffled(site string) []string {
	parts := b.Fleet.Parts(domain.SiteID(site))
	slices.Sort(parts)
	b.rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return parts
}

func (b *bed) freezeSite() string {
	site := b.anySite()
	var thaw []func()
	for _, part := range b.shuffled(site) {
		thaw = append(thaw, b.Fleet.Freeze(part))
	}
	since := time.Now()
	b.strikeAt(site, since)
	for _, i := range b.rng.Perm(len(thaw)) {
		thaw[i]()
		time.Sleep(time.Duration(b.rng.Int64N(int64(50 * time.Millisecond)))) // they wake one after the other
	}
	return fmt.Sprintf("every process of site %s stopped for %s", site, time.Since(since).Round(time.Millisecond))
}

func (b *bed) freezeService() string {
	part := b.shuffled(b.anySite())[0]
	thaw := b.Fleet.Freeze(part)
	b.last()
	thaw()
	return "process " + part + " stopped"
}

func (b *bed) killSite() string {
	site := b.anySite()
	start := b.Fleet.Hold(b.shuffled(site)...)
	since := time.Now()
	b.strikeAt(site, since)
	start()
	return fmt.Sprintf("every process of site %s killed, and started after %s", site, time.Since(since).Round(time.Millisecond))
}

func (b *bed) killService() string {
	part := b.shuffled(b.anySite())[0]
	if err := b.Fleet.Strike(b.t.Context(), part); err != nil {
		b.t.Fatal(err)
	}
	return "process " + part + " killed, and started again"
}

// stepClock steps the wall clock of one site, sometimes while the site that serves is cut off, and back.
func (b *bed) stepClock() string {
	site, off, cutOff := b.anySite(), oneOf(b.rng, time.Hour, -time.Hour), b.rng.IntN(2) == 0
	b.walls[site].set(off)
	b.last()
	text := fmt.Sprintf("the wall clock of site %s off by %s", site, off)
	if cutOff {
		b.lasting(isolated(b.holder))
		text += ", and site " + b.holder + " cut off meanwhile"
	}
	b.walls[site].set(0)
	return text
}

// fillDisk lets the witness have no room for a vote, and cuts off the site that serves: nobody may take over before there is room.
func (b *bed) fillDisk() string {
	filler := b.State("w", "quorum", "filler")
	f, err := os.Create(filler)
	if err != nil {
		b.t.Fatal(err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	_ = f.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		b.t.Fatalf("fill the disk of the witness: %v", err)
	}
	b.faulty(isolated(b.holder))
	since := time.Now()
	b.leases(2.5)
	early := b.servedSince(other(b.holder), since)
	room := time.Now()
	if err := os.Remove(filler); err != nil {
		b.t.Fatal(err)
	}
	if early {
		b.t.Fatalf("site %s took over, and the vote of the witness was nowhere written", other(b.holder))
	}
	b.takenOver(room)
	b.faulty(nil)
	return fmt.Sprintf("the witness' disk full, and site %s cut off: nobody served until there was room", b.holder)
}

// restoreOldCopy gives the witness its votes as they once were, at the moment that is worst: the site that serves has gone on without the
// other, which the restored votes do not know, and is cut off when the other is back.
func (b *bed) restoreOldCopy() string {
	b.copyVotes()
	with := b.copies[b.rng.IntN(len(b.copies))]
	alone := b.rng.IntN(3) > 0
	if alone {
		b.faulty(isolated(other(b.holder)))
		b.Until("the site that serves goes on without the other", func(g sitestest.Shown) bool {
			t := g.Copies[b.holder].Targets
			return g.Copies[b.holder].Serving && len(t) == 1 && !t[0].InSync
		})
		if err := b.answered(b.holder, time.Now(), takenOverIn); err != nil {
			b.t.Fatal(err)
		}
	}
	start := b.Fleet.Hold(fleet.Part("w", api.ServiceQuorum))
	b.putVotes(with)
	noticed := b.noticed()
	start()
	text := "the witness' votes restored from " + filepath.Base(with)
	b.Until("the witness votes again", func(sitestest.Shown) bool {
		all := b.quorums()
		_, runs := all["w"]
		return runs && reaches(all[b.holder], "w")
	})
	if alone {
		if b.noticed() == noticed {
			b.t.Fatal("the witness does not notice that its votes are of an old copy")
		}
		b.faulty(isolated(b.holder))
		b.leases(3)
		b.faulty(nil)
		text += fmt.Sprintf(", site %s having gone on alone, and cut off when %s was back", b.holder, other(b.holder))
	}
	return text
}

// noticed is how often the witness told that its votes were of an old copy.
func (b *bed) noticed() int {
	log, err := os.ReadFile(filepath.Join(b.Dir, "w-quorum.log"))
	if err != nil {
		b.t.Fatal(err)
	}
	return bytes.Count(log, []byte("an old copy was put back"))
}

// copyVotes keeps a copy of what the witness' voter has.
func (b *bed) copyVotes() {
	to := filepath.Join(b.Dir, fmt.Sprintf("copy-%d", len(b.copies)))
	if out, err := exec.Command("cp", "-a", b.State("w", "quorum"), to).CombinedOutput(); err != nil {
		b.t.Fatalf("copy the witness' votes: %v: %s", err, out)
	}
	b.copies = append(b.copies, to)
}

// putVotes puts a copy back in the place of what is there.
func (b *bed) putVotes(from string) {
	at := b.State("w", "quorum")
	if out, err := exec.Command("find", at, "-mindepth", "1", "-delete").CombinedOutput(); err != nil {
		b.t.Fatalf("remove the witness' votes: %v: %s", err, out)
	}
	if out, err := exec.Command("cp", "-a", from+"/.", at).CombinedOutput(); err != nil {
		b.t.Fatalf("restore the witness' votes: %v: %s", err, out)
	}
}

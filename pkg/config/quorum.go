package config

import (
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

// Quorum is who votes, the same at every site.
type Quorum struct {
	Model string `yaml:"model"` // one of Models
	// Share is the folder of the file-share witness, the same share at every data site. With node_and_share_majority it is
	// either this or a witness site.
	Share string `yaml:"share"`
	// ShareLocal says that the share is a folder of this machine alone, which is refused otherwise: for trying things out on one machine.
	ShareLocal bool `yaml:"share_local"`
	// Object is where an object store votes, in the share's place.
	Object *Object `yaml:"object"`
	// Witness is a witness service that votes for other installations, too, in the share's place.
	Witness *WitnessService `yaml:"witness"`
	// Disk is the small LUN that votes, iscsi://host[:port]/target/lun, with node_and_disk_majority and disk_only.
	Disk string `yaml:"disk"`
	// Voters gives single voters other weights than the model does, and tells where they stand.
	Voters []Voter `yaml:"voters"`
}

// Object is a bucket of an object store that speaks S3 and puts on condition.
type Object struct {
	Endpoint    string `yaml:"endpoint"`    // https://host[:port]
	Bucket      string `yaml:"bucket"`      // must be there
	Prefix      string `yaml:"prefix"`      // of every key; one bucket may hold the votes of many installations
	Region      string `yaml:"region"`      // empty: us-east-1
	Credentials string `yaml:"credentials"` // file of an access key, as AWS' tools write it, profile [default]
	CA          string `yaml:"ca"`          // PEM file of who signs the store's certificate; empty: the system's
}

// WitnessService is where holdfast witness run answers.
type WitnessService struct {
	URL string `yaml:"url"` // https://host:port
	CA  string `yaml:"ca"`  // PEM file of its certificate: witness.pem of its folder
}

// The models, as quorum.model names them.
const (
	NodeMajority         = "node_majority"
	NodeAndDiskMajority  = "node_and_disk_majority"
	DiskOnly             = "disk_only"
	NodeAndShareMajority = "node_and_share_majority"
)

// The voters that are no site's.
const (
	VoterShare   = "share"
	VoterDisk    = "disk"
	VoterObject  = "object"
	VoterWitness = "witness"
)

// voterNames are what no site may be called.
func voterNames() []domain.SiteID {
	return []domain.SiteID{VoterShare, VoterDisk, VoterObject, VoterWitness}
}

// Voter is what the model does not say of a voter. Everything may be left out.
type Voter struct {
	ID     string `yaml:"id"`     // a site's, share, disk, object or witness
	Weight *int   `yaml:"weight"` // votes; 0: a member without a vote
	// Site is where a share, disk, object store or witness service stands; empty: at none of the sites.
	Site domain.SiteID `yaml:"site"`
	// On names what the voter needs to live: its host, disk array, power feed. Two voters that name the same fall together.
	On []string `yaml:"on"`
	// VM is the virtual machine that the voter runs in; empty: it runs on a physical host.
	VM domain.VMID `yaml:"vm"`
	// Replicated is how the storage of a share, disk or object is itself copied elsewhere: none, sync or async; empty: not known.
	Replicated domain.Mode `yaml:"replicated"`
	// Clusters are the other installations that count on the same witness, share, disk or object store.
	Clusters []string `yaml:"clusters"`
}

// maxWeight is the most votes that one voter may have.
const maxWeight = 100

func (q Quorum) hasDisk() bool { return q.Model == NodeAndDiskMajority || q.Model == DiskOnly }

func (c Config) validateQuorum(v *validator) {
	q := c.Quorum
	oneOf(v, "quorum.model", q.Model, NodeMajority, NodeAndDiskMajority, DiskOnly, NodeAndShareMajority)
	witnesses := 0
	for _, s := range c.Sites {
		if s.Role == domain.SiteWitness {
			witnesses++
		}
	}
	third := q.third()
	switch {
	case q.Model != NodeAndShareMajority && len(third) > 0:
		v.bad("quorum."+third[0], q.Model+" has no "+third[0], "remove it, or set quorum.model to node_and_share_majority")
	case q.Model == NodeAndShareMajority && len(third) == 0 && witnesses == 0:
		v.bad("quorum.share", "missing", "name the folder of the share, or a bucket as quorum.object, or a witness service as quorum.witness, or list a site with role witness")
	case q.Model == NodeAndShareMajority && len(third) > 1:
		v.bad("quorum."+third[1], third[1]+" beside "+third[0], "keep one of the two: the model has one vote beside the nodes")
	case q.Model == NodeAndShareMajority && len(third) > 0 && witnesses > 0:
		v.bad("quorum."+third[0], third[0]+" beside a witness site", "keep one of the two: the model has one vote beside the nodes")
	case q.Model == NodeAndShareMajority && witnesses > 1:
		v.bad("quorum.model", fmt.Sprintf("%d witness sites", witnesses), "keep one witness site, or set quorum.model to node_majority, where each of them has a vote")
	}
	if q.ShareLocal && q.Share == "" {
		v.bad("quorum.share_local", "there is no share", "remove it, or name the folder as quorum.share")
	}
	c.validateObject(v)
	c.validateWitnessService(v)
	c.validateDisk(v)
	c.validateVoters(v)
}

// third names what is configured as the one voter that node_and_share_majority has beside its sites.
func (q Quorum) third() []string {
	var out []string
	if q.Share != "" {
		out = append(out, VoterShare)
	}
	if q.Object != nil {
		out = append(out, VoterObject)
	}
	if q.Witness != nil {
		out = append(out, VoterWitness)
	}
	return out
}

func (c Config) validateObject(v *validator) {
	o := c.Quorum.Object
	if o == nil {
		return
	}
	for f, text := range map[string]string{"endpoint": o.Endpoint, "bucket": o.Bucket, "credentials": o.Credentials} {
		if text == "" {
			v.bad("quorum.object."+f, "missing", "say where the bucket is: endpoint https://host:port, bucket, and credentials, a file of the access key")
		}
	}
	if u, err := url.Parse(o.Endpoint); o.Endpoint != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Path != "") {
		v.bad("quorum.object.endpoint", fmt.Sprintf("%q is no address of a store", o.Endpoint), "write https://host or https://host:port, without the bucket")
	}
}

func (c Config) validateWitnessService(v *validator) {
	w := c.Quorum.Witness
	if w == nil {
		return
	}
	if u, err := url.Parse(w.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" {
		v.bad("quorum.witness.url", fmt.Sprintf("%q is no address of a witness", w.URL), "write https://host:port")
	}
	if w.CA == "" {
		v.bad("quorum.witness.ca", "missing", "name a copy of witness.pem, from the folder that holdfast witness init made")
	}
	if c.Security.Secrets == "" {
		v.bad("quorum.witness", "this site has no certificate to prove itself with", "make the site's folder with holdfast site init, which sets security.secrets")
	}
}

func (c Config) validateDisk(v *validator) {
	q := c.Quorum
	switch {
	case !q.hasDisk() && q.Disk != "":
		v.bad("quorum.disk", q.Model+" has no disk", "remove it, or set quorum.model to node_and_disk_majority or disk_only")
	case q.hasDisk() && q.Disk == "":
		v.bad("quorum.disk", "missing", "name the LUN that votes, iscsi://host:port/target/lun")
	case q.Disk != "":
		if _, err := initiator.ParseURL(q.Disk); err != nil {
			v.bad("quorum.disk", "is no LUN of an iSCSI target: "+err.Error(), "write iscsi://host:port/target/lun")
		}
	}
}

func (c Config) validateVoters(v *validator) {
	seen := map[string]string{}
	known := c.voterIDs()
	votes := c.modelVotes()
	for i, w := range c.Quorum.Voters {
		f := fmt.Sprintf("quorum.voters[%d]", i)
		if !slices.Contains(known, w.ID) {
			v.bad(f+".id", fmt.Sprintf("%q is no voter", w.ID), fmt.Sprintf("name one of %v", known))
			continue
		}
		unique(v, seen, f+".id", w.ID)
		if w.Weight != nil {
			if *w.Weight < 0 || *w.Weight > maxWeight {
				v.bad(f+".weight", fmt.Sprintf("%d is out of range", *w.Weight), fmt.Sprintf("give it 0 to %d votes; 0 is a member without a vote", maxWeight))
			}
			votes[w.ID] = *w.Weight
		}
		c.validateVoter(v, f, w)
	}
	total := 0
	for _, n := range votes {
		total += n
	}
	if total == 0 && len(known) > 0 {
		v.bad("quorum.voters", "nobody has a vote", "give at least one voter a weight above 0")
	}
}

func (c Config) validateVoter(v *validator, f string, w Voter) {
	beside := w.ID == c.beside()
	switch {
	case w.Site != "" && !beside:
		v.bad(f+".site", "a site's own voter stands at its site", "remove it")
	case w.Site != "" && !slices.ContainsFunc(c.Sites, func(s Site) bool { return s.ID == w.Site }):
		v.bad(f+".site", fmt.Sprintf("%q is no site", w.Site), "name one of sites, or leave it out where the voter stands at none of them")
	}
	if w.Replicated != "" {
		oneOf(v, f+".replicated", w.Replicated, domain.ModeNone, domain.ModeSync, domain.ModeAsync)
	}
	for k, on := range w.On {
		if on == "" {
			v.bad(fmt.Sprintf("%s.on[%d]", f, k), "missing", "name the host, disk array or power feed")
		}
	}
	for k, other := range w.Clusters {
		v.token(fmt.Sprintf("%s.clusters[%d]", f, k), other)
	}
}

// beside is the id of the one voter that is no site's: a share, disk, object or witness service; empty without one.
func (c Config) beside() string {
	switch {
	case c.Quorum.hasDisk():
		return VoterDisk
	case c.Quorum.Share != "":
		return VoterShare
	case c.Quorum.Object != nil:
		return VoterObject
	case c.Quorum.Witness != nil:
		return VoterWitness
	}
	return ""
}

func (c Config) voterIDs() []string {
	var out []string
	for _, s := range c.Sites {
		out = append(out, string(s.ID))
	}
	if p := c.beside(); p != "" {
		out = append(out, p)
	}
	return out
}

// modelVotes is whom the model alone gives a vote.
func (c Config) modelVotes() map[string]int {
	out := map[string]int{}
	for _, s := range c.Sites {
		if c.Quorum.Model != DiskOnly && !(c.Quorum.hasDisk() && s.Role == domain.SiteWitness) {
			out[string(s.ID)] = 1
		}
	}
	if p := c.beside(); p != "" {
		out[p] = 1
	}
	return out
}

// validateSupport wants names of VMs. Whether they are protected is no mistake of the file: holdfast quorum check tells.
func (c Config) validateSupport(v *validator) {
	seen := map[domain.VMID]string{}
	for i, id := range c.Support {
		f := fmt.Sprintf("support[%d]", i)
		v.token(f, string(id))
		unique(v, seen, f, id)
	}
	for i, g := range c.Groups {
		if g.RTO != 0 && time.Duration(g.RTO) < time.Second {
			v.bad(fmt.Sprintf("groups[%d].rto", i), time.Duration(g.RTO).String()+" is no recovery time", "give at least 1s")
		}
	}
}

package sitefolder

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/holdfast-dr/holdfast/deploy/compose"
	"github.com/holdfast-dr/holdfast/deploy/grafana"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// writeCompose writes the product's compose file for the site's role, and the variables that make it this site's.
func writeCompose(o Options) error {
	f := Folder(o.Dir)
	file := compose.Data()
	if o.Role == domain.SiteWitness {
		file = compose.Witness()
	}
	env, err := compose.Env(variables(o)...)
	if err != nil {
		return err
	}
	if err := identity.WriteFile(f.path(".env"), env, 0o644); err != nil {
		return err
	}
	if err := writeDashboards(f); err != nil {
		return err
	}
	return identity.WriteFile(f.path("docker-compose.yml"), file, 0o644)
}

// writeDashboards writes what the profile observability mounts. Prometheus and Grafana run as users of their own and have to be
// able to read it; there is nothing secret in it.
func writeDashboards(f Folder) error {
	files := grafana.Files()
	return fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := f.path("grafana", filepath.FromSlash(path))
		if d.IsDir() {
			return errors.Join(identity.MakeDir(to), os.Chmod(to, 0o755))
		}
		raw, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		return identity.WriteFile(to, raw, 0o644)
	})
}

func variables(o Options) []compose.Variable {
	bind := o.Listen
	if net.ParseIP(bind) == nil {
		bind = "0.0.0.0" // a name is not for compose to look up
	}
	_, port, _ := net.SplitHostPort(o.Address) // checked
	uid, gid := containerUser()
	out := []compose.Variable{
		{Name: "HOLDFAST_SITE", Value: string(o.Name)},
		{Name: "HOLDFAST_UID", Value: strconv.Itoa(uid)},
		{Name: "HOLDFAST_GID", Value: strconv.Itoa(gid)},
		{Name: "HOLDFAST_BIND", Value: bracketed(bind)},
		{Name: "HOLDFAST_NATS_PORT", Value: port},
		// By the site's index, so that the addresses of VMs of the embedded driver differ between sites, as groups want it.
		{Name: "HOLDFAST_SUBNET", Value: fmt.Sprintf("10.82.%d.0/24", o.Index)},
	}
	if len(o.Hosts) > 0 {
		out = append(out, compose.Variable{Name: "HOLDFAST_HOST", Value: o.Hosts[0]},
			compose.Variable{Name: "HOLDFAST_HOST_ADDRESS", Value: fmt.Sprintf("10.82.%d.20", o.Index)})
	}
	return out
}

// nobody is the user of the product's image.
const nobody = 65532

// containerUser is who the containers run as: who makes the folder, but never root.
func containerUser() (uid, gid int) {
	if os.Getuid() == 0 {
		return nobody, nobody
	}
	return os.Getuid(), os.Getgid()
}

// handOver gives the folder that root makes to the user of its containers; all that is written into it later follows.
func handOver(o Options) error {
	uid, gid := containerUser()
	if o.Embedded || uid == os.Getuid() {
		return nil
	}
	if err := os.Chown(o.Dir, uid, gid); err != nil {
		return fmt.Errorf("give the site's folder to user %d, as whom its containers run: %w", uid, err)
	}
	return nil
}

// bracketed is an address as it stands before a colon and a port.
func bracketed(host string) string {
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return fmt.Sprintf("[%s]", host)
	}
	return host
}

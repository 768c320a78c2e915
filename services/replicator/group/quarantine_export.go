package group

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// ExportMapFile is the map beside the exported images, written last: an export without it is not whole.
const ExportMapFile = "map.json"

// ExportMap says what the exported images hold, and where. Outside of the extents an image is a hole and means nothing.
type ExportMap struct {
	Item    api.Quarantined  `json:"item"` // without its extents
	Images  []ExportedImage  `json:"images"`
	Extents []ExportedExtent `json:"extents"` // in write order, the blocks whose order is lost first
}

// ExportedImage is a sparse raw file of a volume's size.
type ExportedImage struct {
	Volume domain.VolumeID `json:"volume"`
	File   string          `json:"file"`
	Size   int64           `json:"size_bytes"`
}

// ExportedExtent is one diverged change.
type ExportedExtent struct {
	api.QuarantinedExtent
	// Kind is write, zero or unmap; block where only the last content is known, neither its place in the order nor its time.
	Kind string `json:"kind"`
}

// export is one export under way.
type export struct {
	dir   string
	vols  []*volume // by index; nil until something is written to it
	whole ExportMap
}

// ExportQuarantined writes what was kept aside as a sparse raw file a volume, <volume>.img, and a map of it, into a folder
// that is made, or is empty. frames and blocks are the item's files. Damage in them is an error, and leaves no map.
func ExportQuarantined(item api.Quarantined, frames, blocks io.Reader, dir string) (ExportMap, error) {
	if err := emptyDir(dir); err != nil {
		return ExportMap{}, fmt.Errorf("export quarantine %s: %w", item.ID, err)
	}
	x := &export{dir: dir, vols: make([]*volume, len(item.Volumes)), whole: ExportMap{Item: brief(item, 0), Images: []ExportedImage{}, Extents: []ExportedExtent{}}}
	err := x.blocks(blocks)
	if err == nil {
		err = x.frames(frames)
	}
	for _, v := range x.vols {
		if v != nil {
			err = errors.Join(err, v.Sync(), v.f.Close())
		}
	}
	if err == nil {
		var b []byte
		if b, err = json.MarshalIndent(x.whole, "", " "); err == nil {
			err = durable.WriteFile(filepath.Join(dir, ExportMapFile), b, 0o600)
		}
	}
	if err != nil {
		return x.whole, fmt.Errorf("export quarantine %s to %s: %w", item.ID, dir, err)
	}
	return x.whole, nil
}

// emptyDir makes a folder, or takes an empty one.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	have, err := os.ReadDir(dir)
	if err == nil && len(have) > 0 {
		err = fmt.Errorf("folder %s is not empty: name another: %w", dir, domain.ErrInvalid)
	}
	return err
}

func (x *export) sizes() []int64 {
	out := make([]int64, len(x.whole.Item.Volumes))
	for i, v := range x.whole.Item.Volumes {
		out[i] = v.SizeBytes
	}
	return out
}

// volume opens an image, and makes it the first time.
func (x *export) volume(index int) (*volume, domain.VolumeID, error) {
	if index >= len(x.vols) {
		return nil, "", fmt.Errorf("volume %d of %d: %w", index, len(x.vols), domain.ErrInvalid)
	}
	def := x.whole.Item.Volumes[index]
	if x.vols[index] == nil {
		file := string(def.ID) + ".img"
		v, err := openVolume(filepath.Join(x.dir, file), def.SizeBytes, true)
		if err != nil {
			return nil, def.ID, err
		}
		x.vols[index] = v
		x.whole.Images = append(x.whole.Images, ExportedImage{Volume: def.ID, File: file, Size: def.SizeBytes})
	}
	return x.vols[index], def.ID, nil
}

func (x *export) blocks(r io.Reader) error {
	return readRecords(bufio.NewReaderSize(r, 1<<20), x.sizes(), func(rec record) error {
		v, id, err := x.volume(int(rec.volume))
		if err != nil {
			return err
		}
		x.whole.Extents = append(x.whole.Extents, ExportedExtent{api.QuarantinedExtent{Volume: id, Offset: rec.off, Length: rec.length}, "block"})
		_, err = v.WriteAt(rec.payload, rec.off)
		return err
	})
}

func (x *export) frames(r io.Reader) error {
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		f, err := nextFrame(in)
		if err != nil || f == nil {
			return err
		}
		for i, e := range f.Entries {
			lsn := f.FirstLSN + domain.LSN(i)
			if e.Op == journal.OpFlush || e.Op == journal.OpMarker || lsn < x.whole.Item.FirstLSN {
				continue
			}
			if err := x.change(f, lsn, e); err != nil {
				return fmt.Errorf("change LSN %d: %w", lsn, err)
			}
		}
	}
}

func (x *export) change(f *journal.Frame, lsn domain.LSN, e journal.Entry) error {
	v, id, err := x.volume(int(e.Volume))
	if err != nil {
		return err
	}
	at := api.QuarantinedExtent{Volume: id, Offset: e.Off, Length: e.Len, LSN: lsn, Time: f.Time}
	x.whole.Extents = append(x.whole.Extents, ExportedExtent{at, e.Op.String()})
	if e.Op == journal.OpWrite {
		_, err := v.WriteAt(e.Data, e.Off)
		return err
	}
	return v.Unmap(e.Off, e.Len)
}

// nextFrame reads one encoded frame, nil at the end.
func nextFrame(in *bufio.Reader) (*journal.Frame, error) {
	head, err := in.Peek(journal.PageSize)
	if len(head) == 0 && errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read kept frames: %w", err)
	}
	n, err := journal.FrameSize(head)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, fmt.Errorf("read kept frames: %w", err)
	}
	return journal.Decode(b)
}

package pool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/layer"
)

const transferPiece = 1 << 20

// formats are those that qemu-img reads and writes for us, and how their files begin.
func formats() map[string]string {
	return map[string]string{"qcow2": "QFI\xfb", "vmdk": "KDMV", "vhdx": "vhdxfile", "vpc": "conectix", "raw": ""}
}

// importFile makes a volume of a file's content.
func (p *Pool) importFile(ctx context.Context, r Request) error {
	if err := p.free(r.Name); err != nil {
		return err
	}
	format, err := formatOf(r.File, r.Format)
	if err != nil {
		return fmt.Errorf("import %s: %w", r.File, err)
	}
	size, err := sizeOf(ctx, r.File, format)
	if err != nil {
		return fmt.Errorf("import %s: %w", r.File, err)
	}
	size = (size + layer.BlockSize - 1) / layer.BlockSize * layer.BlockSize
	if err := checkSize(size); err != nil {
		return fmt.Errorf("import %s: %w", r.File, err)
	}
	id, err := p.newLayer(layerRecord{SizeBytes: size})
	if err == nil {
		err = fill(ctx, r.File, format, p.layerPath(id, "data"))
	}
	if err != nil { // what came so far has no name
		return errors.Join(fmt.Errorf("import %s: %w", r.File, err), p.sweep())
	}
	return p.begin(r.Name, volumeRecord{ID: newID(16), Layer: id, Created: time.Now().UTC(), Durability: domain.DurabilityCached})
}

// formatOf is the format that was asked for, or the one the file begins like.
func formatOf(path, format string) (string, error) {
	if _, known := formats()[format]; known {
		return format, nil
	}
	if format != "" {
		return "", fmt.Errorf("format %q: use raw, qcow2, vmdk, vhdx or vpc: %w", format, domain.ErrInvalid)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %w", domain.ErrNotFound, err)
	}
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	head := make([]byte, 8)
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	for name, magic := range formats() {
		if magic != "" && bytes.HasPrefix(head, []byte(magic)) {
			return name, nil
		}
	}
	return "raw", nil
}

func sizeOf(ctx context.Context, path, format string) (int64, error) {
	if format == "raw" {
		f, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		size, err := f.Seek(0, io.SeekEnd) // a device's too
		return size, errors.Join(err, f.Close())
	}
	out, err := qemuImg(ctx, "info", "-f", format, "--output=json", path)
	if err != nil {
		return 0, err
	}
	return sizeOfImage(out, path)
}

// sizeOfImage reads what qemu-img told of an image. One that takes data from other files is refused: whoever wrote the image,
// a guest for instance, would have us read any file of this host.
func sizeOfImage(told []byte, path string) (int64, error) {
	var info struct {
		Size     int64  `json:"virtual-size"`
		Backing  string `json:"backing-filename"`
		Specific struct {
			Data struct {
				File    string `json:"data-file"`
				Extents []struct {
					Filename string `json:"filename"`
				} `json:"extents"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(told, &info); err != nil {
		return 0, fmt.Errorf("read what qemu-img tells of it: %w", err)
	}
	outside := info.Backing != "" || info.Specific.Data.File != ""
	for _, e := range info.Specific.Data.Extents {
		outside = outside || e.Filename != path
	}
	if outside {
		return 0, fmt.Errorf("it takes data from other files: make one of it with qemu-img convert first, where you trust it; or add --format raw: %w", domain.ErrInvalid)
	}
	return info.Size, nil
}

func qemuImg(ctx context.Context, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, "qemu-img", args...)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("qemu-img is not installed, and only it knows this format: install qemu-utils, or convert the file to raw elsewhere: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("qemu-img %s: %w: %s", args[0], errors.Join(ctx.Err(), err), strings.TrimSpace(errs.String()))
	}
	return out, nil
}

// fill copies a file's content into the data of a new layer, all of which is a hole, and makes it durable.
func fill(ctx context.Context, from, format, to string) error {
	if format != "raw" {
		if _, err := qemuImg(ctx, "convert", "-n", "--target-is-zero", "-S", "4k", "-f", format, "-O", "raw", from, to); err != nil {
			return err
		}
		return syncFile(to)
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read
	dst, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	size, err := src.Seek(0, io.SeekEnd)
	if err == nil {
		err = copySparse(ctx, dst, src, size, func(off int64) (int64, error) { return nextData(src, off, size) })
	}
	return errors.Join(err, dst.Sync(), dst.Close())
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// nextData is where data comes next, size where none does; off where the file system cannot tell.
func nextData(f *os.File, off, size int64) (int64, error) {
	at, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, nil
	}
	if err != nil {
		return off, nil //nolint:nilerr // a device, or a file system without holes: everything is data
	}
	return at, nil
}

// copySparse copies size bytes into a file of holes, and leaves holes where the source has them or zeroes.
func copySparse(ctx context.Context, dst io.WriterAt, src io.ReaderAt, size int64, next func(off int64) (int64, error)) error {
	buf := make([]byte, transferPiece)
	for off := int64(0); ; {
		at, err := next(off)
		if err != nil || at >= size {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		off = at / layer.BlockSize * layer.BlockSize
		part := buf[:min(transferPiece, size-off)]
		if n, err := src.ReadAt(part, off); n < len(part) {
			return err
		}
		if err := writeData(dst, part, off); err != nil {
			return err
		}
		off += int64(len(part))
	}
}

// writeData writes the stretches of a piece that are not zero, block by block told apart.
func writeData(dst io.WriterAt, p []byte, off int64) error {
	zero := make([]byte, layer.BlockSize)
	for at := 0; at < len(p); {
		end := at
		for end < len(p) {
			b := p[end:min(end+layer.BlockSize, len(p))]
			if bytes.Equal(b, zero[:len(b)]) {
				break
			}
			end += len(b)
		}
		if end > at {
			if _, err := dst.WriteAt(p[at:end], off+int64(at)); err != nil {
				return err
			}
		}
		at = end + layer.BlockSize
	}
	return nil
}

// exportFile writes what a volume holds at one point between all its changes into a new file.
func (p *Pool) exportFile(ctx context.Context, r Request) error {
	v, err := p.find(r.Name)
	if err != nil {
		return err
	}
	format := r.Format
	if format == "" {
		format = "raw"
	}
	if _, known := formats()[format]; !known {
		return fmt.Errorf("export volume %s: format %q: use raw, qcow2, vmdk, vhdx or vpc: %w", r.Name, format, domain.ErrInvalid)
	}
	if _, err := os.Lstat(r.File); err == nil {
		return fmt.Errorf("export volume %s: %s is there; remove it, or give another name: %w", r.Name, r.File, domain.ErrConflict)
	}
	frozen := v.rec.Layer
	writes := p.front != nil && v.rec.Of == ""
	if writes {
		if frozen, err = p.freeze(v); err != nil {
			return fmt.Errorf("export volume %s: %w", r.Name, err)
		}
	}
	err = p.exportLayer(ctx, frozen, format, r.File)
	if writes {
		err = errors.Join(err, p.freezeTops(), p.compact(ctx.Err))
	}
	if err = errors.Join(err, p.closeUnused()); err != nil {
		return fmt.Errorf("export volume %s: %w", r.Name, err)
	}
	return nil
}

func (p *Pool) exportLayer(ctx context.Context, id, format, to string) (err error) {
	layers, err := p.openLineage(id)
	if err != nil {
		return err
	}
	part := filepath.Join(filepath.Dir(to), ".part-"+filepath.Base(to))
	temps := []string{part}
	defer func() {
		for _, t := range slices.Compact(temps) {
			if e := os.Remove(t); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}()
	if err := exportRaw(ctx, layer.NewChain(layers, nil), layers[0].Size(), part); err != nil {
		return err
	}
	done := part
	if format != "raw" {
		done = part + "." + format
		temps = append(temps, done)
		if _, err := qemuImg(ctx, "convert", "-f", "raw", "-O", format, part, done); err != nil {
			return err
		}
		if err := syncFile(done); err != nil {
			return err
		}
	}
	if err := os.Rename(done, to); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

func exportRaw(ctx context.Context, c *layer.Chain, size int64, to string) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = f.Truncate(size); err == nil {
		err = copySparse(ctx, f, c, size, func(off int64) (int64, error) {
			for off < size {
				mapped, run, err := c.Extent(off)
				if mapped || err != nil {
					return off, err
				}
				off += run
			}
			return size, nil
		})
	}
	return errors.Join(err, f.Sync(), f.Close())
}

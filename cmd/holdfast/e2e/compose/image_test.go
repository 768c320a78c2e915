//go:build e2e_compose

package compose

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestImageIsReproducible builds the product's image twice, each time from nothing but the source: the binary and the layers
// are the same to the last bit.
func TestImageIsReproducible(t *testing.T) {
	needDocker(t)
	var digests []string
	var layers [][]string
	for _, tag := range []string{"1", "2"} {
		cache, name := t.TempDir(), prefix+"reproducible:"+tag
		cmd := exec.CommandContext(t.Context(), "../../../../deploy/images/build", "holdfast", name)
		cmd.Env = append(os.Environ(), "HOLDFAST_IMAGE_CACHE="+cache, "DOCKER_BUILD_FLAGS=--no-cache")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", name).Run() })
		digests = append(digests, digest(t, filepath.Join(cache, "holdfast", "rootfs", "holdfast")))
		out, err := docker(t.Context(), "image", "inspect", "--format", "{{json .RootFS.Layers}}", name)
		if err != nil {
			t.Fatal(err)
		}
		var l []string
		if err := json.Unmarshal([]byte(out), &l); err != nil || len(l) == 0 {
			t.Fatalf("layers %s: %v", out, err)
		}
		layers = append(layers, l)
	}
	if digests[0] != digests[1] {
		t.Errorf("the binary is %s and then %s", digests[0], digests[1])
	}
	if !slices.Equal(layers[0], layers[1]) {
		t.Errorf("the layers are %v and then %v", layers[0], layers[1])
	}
	t.Logf("binary sha256:%s, layers %v", digests[0], layers[0])
}

// digest is a binary's, which must not tell where it was built.
func digest(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../../../..")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(root+"/")) {
		t.Errorf("the binary holds the path %s of the machine that built it", root)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

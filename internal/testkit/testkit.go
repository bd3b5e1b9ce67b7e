// Package testkit finds and unpacks the test data that lies outside the repository.
package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// archive is one set of test data.
type archive struct{ env, file, folder string }

var archives = map[string]archive{
	"conformance": {"RETUNE_CONFORMANCE", "conformance/onnx-conformance.tar.xz", ""},
	"models":      {"RETUNE_MODELS", "models/real-models.tar.xz", "real"},
}

var (
	mu       sync.Mutex
	unpacked = map[string]string{}
)

// Dir is the folder of the test data "conformance" (with node, simple, … in it) or "models". It is the one
// that RETUNE_CONFORMANCE or RETUNE_MODELS names, or else is unpacked from the archive
// in the folder shared beside the repository, or else, for conformance, that of Debian's libonnx-testdata.
// Without any, the test is skipped and says so.
func Dir(t testing.TB, name string) string {
	a := archives[name]
	if dir := os.Getenv(a.env); dir != "" {
		return dir
	}
	mu.Lock()
	defer mu.Unlock()
	if dir := unpacked[name]; dir != "" {
		return dir
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(root, "..", "shared", a.file)
	if st, err := os.Stat(tarball); err == nil {
		// A cache by the archive's size and date, so that each package unpacks it once at most.
		dir := filepath.Join(os.TempDir(), "retune-testdata", name+"-"+st.ModTime().UTC().Format("20060102150405"))
		if _, err := os.Stat(dir); err != nil {
			tmp, err := os.MkdirTemp(os.TempDir(), "retune-unpack-")
			if err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("tar", "xJf", tarball, "-C", tmp).CombinedOutput(); err != nil {
				t.Fatalf("unpack %s: %v: %s", a.file, err, out)
			}
			if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(tmp, dir); err != nil {
				os.RemoveAll(tmp) // another package was first
			}
		}
		unpacked[name] = filepath.Join(dir, a.folder)
		return unpacked[name]
	}
	if name == "conformance" {
		const debian = "/usr/share/libonnx-testdata/data"
		if _, err := os.Stat(debian); err == nil {
			return debian
		}
	}
	t.Skipf("skipped: no %s data: set %s, or install Debian's libonnx-testdata", name, a.env)
	return ""
}

// moduleRoot is the folder of go.mod above the working folder.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, e := os.Stat(filepath.Join(dir, "go.mod")); e == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", os.ErrNotExist
		}
		dir = up
	}
	return "", err
}

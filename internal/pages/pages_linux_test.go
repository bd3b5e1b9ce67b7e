package pages

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// resident is the bytes of files that this process has in memory.
func resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	_, rest, ok := strings.Cut(string(text), "RssFile:")
	if !ok {
		t.Skip("the system does not tell RssFile")
	}
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestDrop maps a file, reads all and writes some of it: dropping gives memory back and loses nothing.
func TestDrop(t *testing.T) {
	const size = 32 << 20
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i>>12) ^ byte(i)
	}
	path := filepath.Join(t.TempDir(), "weights")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	for _, at := range []int{5, 1 << 20, size - 1} {
		b[at]++
		want[at]++
	}
	if !bytes.Equal(b, want) {
		t.Fatal("the mapping does not read as the file and what was written to it")
	}
	before := resident(t)
	Drop(b[100 : size-100])
	if gone := before - resident(t); gone < size/2 {
		t.Errorf("of %d bytes %d were given back", size, gone)
	}
	if !bytes.Equal(b, want) {
		t.Error("after Drop the mapping reads otherwise")
	}
}

// TestDropOfMemory leaves memory that no file holds as it is.
func TestDropOfMemory(t *testing.T) {
	b := bytes.Repeat([]byte{7}, 8<<20)
	Huge(b)
	Drop(b)
	if i := bytes.IndexFunc(b, func(r rune) bool { return r != 7 }); i >= 0 {
		t.Errorf("byte %d is %d", i, b[i])
	}
}

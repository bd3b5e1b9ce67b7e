package imagefile

import (
	"bytes"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
)

func anySize(int64) error { return nil }

// recorded are files made with libjpeg-turbo 2.1.5 and libwebp 1.2.4, and the sums of the pixels that they decode them to.
var recorded = map[string]uint32{
	"420.jpg": 0x90f424a8, "422_restart.jpg": 0xe49032ba, "440_progressive.jpg": 0x10bdb9b1, "420_progressive.jpg": 0x90f424a8,
	"411_rgb.jpg": 0xc825576e, "gray.jpg": 0x60ae1ae7, "cmyk.jpg": 0x2c81a8fd, "lossy.webp": 0x16b177e0,
}

func TestPixelsAreThoseOfTheLibraries(t *testing.T) {
	for name, sum := range recorded {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		m, err := Decode(data, anySize)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := crc32.ChecksumIEEE(m.Pix); m.Width != 19 || m.Height != 11 || got != sum {
			t.Errorf("%s: %d×%d pixels of sum %#x, not 19×11 of %#x", name, m.Width, m.Height, got, sum)
		}
	}
}

func TestPortableFormats(t *testing.T) {
	for _, c := range []struct{ file, pix string }{
		{"P1\n# a comment\n3 1\n101", "\x00\x00\x00\xff\xff\xff\x00\x00\x00"},
		{"P2 2 1 51 7 51", "\x23\x23\x23\xff\xff\xff"},
		{"P3 1 2 #c\n 255\n1 2 3 4 5 6", "\x01\x02\x03\x04\x05\x06"},
		{"P4 2 2\n\x40\x80", "\xff\xff\xff\x00\x00\x00\x00\x00\x00\xff\xff\xff"},
		{"P5 2 1 255\n\x0a\x0b", "\x0a\x0a\x0a\x0b\x0b\x0b"},
		{"P5 2 1 65535\n\x0a\x00\xff\xff", "\x0a\x0a\x0a\xff\xff\xff"},
		{"P6 1 1 255\n\x01\x02\x03", "\x01\x02\x03"},
	} {
		if m, err := Decode([]byte(c.file), anySize); err != nil {
			t.Errorf("%q: %v", c.file, err)
		} else if string(m.Pix) != c.pix {
			t.Errorf("%q: %q, not %q", c.file, m.Pix, c.pix)
		}
	}
	for _, file := range []string{"P1", "P6 1 1 255", "P6 1 1 255\n\x01\x02", "P2 1 1 9 10", "P5 0 1 255\n", "P5 1 1 65536\n..", "P1 1 1 2", "P2 99999999999999 1 1 0"} {
		if _, err := Decode([]byte(file), anySize); !errors.As(err, new(*DamagedError)) {
			t.Errorf("%q: %v, not that it is damaged", file, err)
		}
	}
}

// Colours behind transparency stay, and deep samples keep their upper halves.
func TestTransparentPixels(t *testing.T) {
	plain, deep := image.NewNRGBA(image.Rect(0, 0, 1, 1)), image.NewNRGBA64(image.Rect(0, 0, 1, 1))
	plain.Set(0, 0, color.NRGBA{1, 200, 3, 0})
	deep.Set(0, 0, color.NRGBA64{0x01ff, 0xc800, 0x03ff, 0})
	for _, src := range []image.Image{plain, deep} {
		var file bytes.Buffer
		if err := png.Encode(&file, src); err != nil {
			t.Fatal(err)
		}
		if m, err := Decode(file.Bytes(), anySize); err != nil || !bytes.Equal(m.Pix, []byte{1, 200, 3}) {
			t.Errorf("%T: %v, %v", src, m, err)
		}
	}
}

func TestUnsupportedFormats(t *testing.T) {
	for _, file := range []string{"\x00\x00\x00\x0cjP  \r\n\x87\n", "\xff\xd8\xff\xc3\x00\x02", "RIFF\x20\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02"} {
		if _, err := Decode([]byte(file), anySize); err == nil || errors.As(err, new(*DamagedError)) {
			t.Errorf("%q: %v, not that it is not supported", file, err)
		}
	}
}

// samples is a small file of each format.
func samples(t testing.TB) map[string][]byte {
	files := map[string][]byte{"pnm": []byte("P6 3 2 255\n123456789012345678")}
	for name := range recorded {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	src := image.NewNRGBA(image.Rect(0, 0, 9, 7))
	for i := range src.Pix {
		src.Pix[i] = byte(i * i)
	}
	for name, encode := range map[string]func(w *bytes.Buffer) error{
		"png":  func(w *bytes.Buffer) error { return png.Encode(w, src) },
		"bmp":  func(w *bytes.Buffer) error { return bmp.Encode(w, src) },
		"tiff": func(w *bytes.Buffer) error { return tiff.Encode(w, src, &tiff.Options{Compression: tiff.Deflate}) },
	} {
		var w bytes.Buffer
		if err := encode(&w); err != nil {
			t.Fatal(err)
		}
		files[name] = w.Bytes()
	}
	return files
}

var errTooLarge = errors.New("too large")

// damaged decodes what may be an image, of at most 4 MiB, which takes no more than it reserves.
func damaged(t testing.TB, data []byte) {
	var reserved int64
	m, err := Decode(data, func(size int64) error {
		if reserved = size; size > 1<<22 {
			return errTooLarge
		}
		return nil
	})
	if err == nil && int64(len(m.Pix)) > reserved {
		t.Fatalf("%d×%d pixels where %d bytes were reserved", m.Width, m.Height, reserved)
	}
	if err != errTooLarge && reserved > 1<<22 {
		t.Fatalf("%v where the size was refused", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, data := range samples(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		damaged(t, data)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Fatalf("%d MiB were allocated for %d bytes", used>>20, len(data))
		}
	})
}

// TestDamagedFiles cuts files off and changes bytes; what is not refused is as large as was reserved.
func TestDamagedFiles(t *testing.T) {
	for _, data := range samples(t) {
		r := rand.New(rand.NewPCG(1, uint64(len(data))))
		for i := range len(data) + 500 {
			d := bytes.Clone(data[:min(i, len(data))])
			if i >= len(data) {
				for range 1 + r.IntN(3) {
					d[r.IntN(len(d))] = byte(r.Uint32())
				}
			}
			damaged(t, d)
		}
	}
}

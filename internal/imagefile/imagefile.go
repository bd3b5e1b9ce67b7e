// Package imagefile decodes image files into 8-bit RGB, bit for bit as the libraries do with which the standard
// recorded its cases: libjpeg-turbo and libwebp enlarge and convert colours in ways of their own.
package imagefile

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
)

// Image is pixels by row, three bytes each: red, green, blue. Transparency is left out.
type Image struct {
	Width, Height int
	Pix           []byte
}

func newImage(width, height int) *Image {
	return &Image{Width: width, Height: height, Pix: make([]byte, 3*width*height)}
}

// row is the pixels of row y.
func (m *Image) row(y int) []byte { return m.Pix[3*y*m.Width : 3*(y+1)*m.Width] }

// DamagedError says that data is no image, or a damaged one.
type DamagedError struct{ Err error }

func (e *DamagedError) Error() string { return e.Err.Error() }
func (e *DamagedError) Unwrap() error { return e.Err }

// maxPixels is more than fits into any memory.
const maxPixels = 1 << 40

// bytesPerPixel is what decoding takes at most: a progressive JPEG's coefficients and samples, a deep PNG's pixels, and the result.
const bytesPerPixel = 24

// decoder decodes a file. It calls reserve with the size that the file claims before it allocates by it.
type decoder func(data []byte, reserve func(width, height int) error) (*Image, error)

var formats = []struct {
	magic  string // '?' stands for any byte
	decode decoder
}{
	{"\xff\xd8\xff", decodeJPEG},
	{"\x89PNG\r\n\x1a\n", library(png.DecodeConfig, png.Decode)},
	{"BM", library(bmp.DecodeConfig, bmp.Decode)},
	{"II*\x00", library(tiff.DecodeConfig, tiff.Decode)},
	{"MM\x00*", library(tiff.DecodeConfig, tiff.Decode)},
	{"RIFF????WEBP", decodeWebP},
	{"P1", decodePNM}, {"P2", decodePNM}, {"P3", decodePNM}, {"P4", decodePNM}, {"P5", decodePNM}, {"P6", decodePNM},
	{"\x00\x00\x00\x0cjP  ", decodeJPEG2000},
	{"\xff\x4f\xff\x51", decodeJPEG2000},
}

// Decode decodes a file in one of the formats that ImageDecoder names. reserve is called before memory is taken
// for an image as large as the file claims, and its error is returned. Other errors are [*DamagedError], unless the
// file has what is not supported.
func Decode(data []byte, reserve func(bytes int64) error) (*Image, error) {
	for _, f := range formats {
		if !matches(data, f.magic) {
			continue
		}
		var refused error
		m, err := f.decode(data, func(width, height int) error {
			if w, h := int64(width), int64(height); h > 0 && w > maxPixels/h {
				refused = fmt.Errorf("an image of %d×%d pixels is too large", w, h)
			} else {
				refused = reserve(w * h * bytesPerPixel)
			}
			return refused
		})
		if err == nil || err == refused || unsupported(err) {
			return m, err
		}
		return nil, &DamagedError{err}
	}
	return nil, &DamagedError{errors.New("the data is of no known image format")}
}

func matches(data []byte, magic string) bool {
	if len(data) < len(magic) {
		return false
	}
	for i := range len(magic) {
		if magic[i] != '?' && magic[i] != data[i] {
			return false
		}
	}
	return true
}

var errUnsupported = errors.New("not supported")

func unsupported(err error) bool {
	var asPNG png.UnsupportedError
	var asTIFF tiff.UnsupportedError
	return errors.Is(err, errUnsupported) || errors.Is(err, bmp.ErrUnsupported) || errors.As(err, &asPNG) || errors.As(err, &asTIFF)
}

func decodeJPEG2000([]byte, func(int, int) error) (*Image, error) {
	return nil, fmt.Errorf("JPEG 2000 is %w", errUnsupported)
}

// library decodes by way of package image.
func library(config func(io.Reader) (image.Config, error), decode func(io.Reader) (image.Image, error)) decoder {
	return func(data []byte, reserve func(width, height int) error) (*Image, error) {
		c, err := config(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		if err := reserve(c.Width, c.Height); err != nil {
			return nil, err
		}
		src, err := decode(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return fromImage(src), nil
	}
}

func fromImage(src image.Image) *Image {
	b := src.Bounds()
	m := newImage(b.Dx(), b.Dy())
	for y := range m.Height {
		row := m.row(y)
		for x := range m.Width {
			c := color.NRGBAModel.Convert(opaque(src.At(b.Min.X+x, b.Min.Y+y))).(color.NRGBA)
			row[3*x], row[3*x+1], row[3*x+2] = c.R, c.G, c.B
		}
	}
	return m
}

// opaque keeps the colours of deep pixels that can be seen through, which a conversion would multiply by their opacity.
func opaque(c color.Color) color.Color {
	if deep, ok := c.(color.NRGBA64); ok {
		deep.A = math.MaxUint16
		return deep
	}
	return c
}

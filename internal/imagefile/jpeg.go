package imagefile

import (
	"errors"
	"fmt"
)

// Baseline, extended and progressive JPEG with Huffman codes and samples of 8 bits. Package image/jpeg is no help here: its
// inverse cosine transform rounds otherwise than libjpeg's, with which the standard's cases are recorded.

// jpegComponent is one component of a frame. Its blocks are rows of blocks of whole MCUs.
type jpegComponent struct {
	id            byte
	h, v          int // samples of an MCU along each axis
	table         byte
	quant         *[64]uint16 // table as it was when the first scan began
	width, height int         // in samples
	stride, rows  int         // in blocks
	coef          []int16     // 64 a block, by row
	dc, ac        *huffman
	pred          int32
}

type jpegReader struct {
	bitReader
	quant         [4]*[64]uint16
	huff          [2][4]*huffman // DC, AC
	restart       int            // MCUs between restarts
	progressive   bool
	width, height int
	hmax, vmax    int
	components    []*jpegComponent
	jfif, adobe   bool
	transform     byte // Adobe's word on the colours
	scans         int
}

// maxScans bounds the scans, each of which may go through all of a large image for a few bytes.
const maxScans = 256

var errMarker = errors.New("a segment has the wrong length or values")

// zigzag is where the coefficients lie in their block, in the order of the file.
var zigzag = [64]byte{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
}

func decodeJPEG(data []byte, reserve func(width, height int) error) (*Image, error) {
	d := &jpegReader{bitReader: bitReader{data: data, pos: 2}}
	for {
		marker, segment, err := d.segment()
		if err != nil {
			return nil, err
		}
		switch {
		case marker == 0xd9: // end of image
			if d.scans == 0 {
				return nil, errors.New("there is no scan")
			}
			return d.image()
		case marker == 0xc4:
			err = d.defineHuffman(segment)
		case marker == 0xdb:
			err = d.defineQuantization(segment)
		case marker == 0xdd:
			if len(segment) != 2 {
				err = errMarker
			} else {
				d.restart = int(segment[0])<<8 | int(segment[1])
			}
		case marker == 0xda:
			err = d.scan(segment)
		case marker >= 0xc0 && marker <= 0xc2:
			d.progressive = marker == 0xc2
			err = d.frame(segment, reserve)
		case marker >= 0xc3 && marker <= 0xcf && marker != 0xc8:
			err = fmt.Errorf("lossless, hierarchical or arithmetic-coded JPEG is %w", errUnsupported)
		case marker == 0xe0 && len(segment) >= 5 && string(segment[:5]) == "JFIF\x00":
			d.jfif = true
		case marker == 0xee && len(segment) >= 12 && string(segment[:5]) == "Adobe":
			d.adobe, d.transform = true, segment[11]
		}
		if err != nil {
			return nil, err
		}
	}
}

// segment finds the next marker and gives what is in its segment.
func (d *jpegReader) segment() (marker byte, segment []byte, err error) {
	for {
		for d.pos+1 < len(d.data) && (d.data[d.pos] != 0xff || d.data[d.pos+1] == 0 || d.data[d.pos+1] == 0xff) {
			d.pos++
		}
		if d.pos+1 >= len(d.data) {
			return 0, nil, errShort
		}
		marker = d.data[d.pos+1]
		d.pos += 2
		if marker == 0xd9 {
			return marker, nil, nil
		}
		if marker != 1 && marker&^7 != 0xd0 { // those have no segments
			break
		}
	}
	rest := d.data[d.pos:]
	if len(rest) < 2 {
		return 0, nil, errShort
	}
	n := int(rest[0])<<8 | int(rest[1])
	if n < 2 || n > len(rest) {
		return 0, nil, errShort
	}
	d.pos += n
	return marker, rest[2:n], nil
}

func (d *jpegReader) defineQuantization(p []byte) error {
	for len(p) > 0 {
		wide, id := int(p[0]>>4), p[0]&15
		size := 64 << wide
		if wide > 1 || id > 3 || len(p) < 1+size {
			return errMarker
		}
		t := new([64]uint16)
		for i, at := range zigzag {
			if wide == 0 {
				t[at] = uint16(p[1+i])
			} else {
				t[at] = uint16(p[1+2*i])<<8 | uint16(p[2+2*i])
			}
		}
		d.quant[id] = t // a new one: components may still have the old one
		p = p[1+size:]
	}
	return nil
}

func (d *jpegReader) defineHuffman(p []byte) error {
	for len(p) > 0 {
		class, id := p[0]>>4, p[0]&15
		if class > 1 || id > 3 || len(p) < 17 {
			return errMarker
		}
		total := 0
		for _, n := range p[1:17] {
			total += int(n)
		}
		if total > 256 || len(p) < 17+total {
			return errMarker
		}
		h, err := newHuffman(p[1:17], p[17:17+total])
		if err != nil {
			return err
		}
		d.huff[class][id] = h
		p = p[17+total:]
	}
	return nil
}

func (d *jpegReader) frame(p []byte, reserve func(width, height int) error) error {
	if d.components != nil || len(p) < 6 || len(p) != 6+3*int(p[5]) {
		return errMarker
	}
	if p[0] != 8 {
		return fmt.Errorf("JPEG with samples of %d bits is %w", p[0], errUnsupported)
	}
	d.height, d.width = int(p[1])<<8|int(p[2]), int(p[3])<<8|int(p[4])
	if d.height == 0 {
		return fmt.Errorf("JPEG that gives its height after the image is %w", errUnsupported)
	}
	if n := p[5]; n != 1 && n != 3 && n != 4 || d.width == 0 {
		return errMarker
	}
	if err := reserve(d.width, d.height); err != nil {
		return err
	}
	for p = p[6:]; len(p) > 0; p = p[3:] {
		c := &jpegComponent{id: p[0], h: int(p[1] >> 4), v: int(p[1] & 15), table: p[2]}
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 || c.table > 3 {
			return errMarker
		}
		d.hmax, d.vmax = max(d.hmax, c.h), max(d.vmax, c.v)
		d.components = append(d.components, c)
	}
	for _, c := range d.components {
		if d.hmax%c.h != 0 || d.vmax%c.v != 0 {
			return fmt.Errorf("JPEG with components that are a fraction of another's size is %w", errUnsupported)
		}
		c.width, c.height = ceilDiv(d.width*c.h, d.hmax), ceilDiv(d.height*c.v, d.vmax)
		c.stride, c.rows = ceilDiv(d.width, 8*d.hmax)*c.h, ceilDiv(d.height, 8*d.vmax)*c.v
		c.coef = make([]int16, 64*c.stride*c.rows)
	}
	return nil
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// image transforms the coefficients, enlarges the components and converts the colours.
func (d *jpegReader) image() (*Image, error) {
	planes, rows := make([]*plane, len(d.components)), make([][]byte, len(d.components))
	for i, c := range d.components {
		if c.quant == nil {
			return nil, errors.New("a component has no scan")
		}
		p := &plane{pix: make([]byte, 64*c.stride*c.rows), stride: 8 * c.stride, width: c.width, height: c.height,
			sx: d.hmax / c.h, sy: d.vmax / c.v, round: [2]int{8, 7}}
		p.smooth = p.sx == 1 || p.width > 2
		for b := range c.stride * c.rows {
			inverseDCT(p.pix[b/c.stride*8*p.stride+b%c.stride*8:], p.stride, (*[64]int16)(c.coef[64*b:]), c.quant)
		}
		c.coef = nil
		planes[i], rows[i] = p, make([]byte, d.width)
	}
	m := newImage(d.width, d.height)
	convert := d.conversion()
	for y := range d.height {
		for i, p := range planes {
			p.row(rows[i], y)
		}
		row := m.row(y)
		for x := range d.width {
			row[3*x], row[3*x+1], row[3*x+2] = convert(rows, x)
		}
	}
	return m, nil
}

// conversion is what the components mean: as libjpeg guesses where the file does not say.
func (d *jpegReader) conversion() func(rows [][]byte, x int) (r, g, b byte) {
	plain := func(rows [][]byte, x int) (r, g, b byte) { return rows[0][x], rows[1][x], rows[2][x] }
	convert := fromYCbCr
	switch len(d.components) {
	case 1:
		return func(rows [][]byte, x int) (r, g, b byte) { return rows[0][x], rows[0][x], rows[0][x] }
	case 3:
		ids := string([]byte{d.components[0].id, d.components[1].id, d.components[2].id})
		if !d.jfif && (d.adobe && d.transform == 0 || !d.adobe && ids == "RGB") {
			return plain
		}
		return convert
	}
	// Cyan, magenta, yellow and black are written inverted, as Adobe does.
	inverted := d.adobe && d.transform != 0
	if !inverted {
		convert = plain
	}
	return func(rows [][]byte, x int) (r, g, b byte) {
		black := int(rows[3][x])
		r, g, b = convert(rows, x)
		part := func(v byte) byte {
			if inverted {
				v = 255 - v
			}
			return byte((int(v)*black + 127) / 255)
		}
		return part(r), part(g), part(b)
	}
}

// fromYCbCr converts the wide range of JFIF, with products of 16 bits.
func fromYCbCr(rows [][]byte, x int) (r, g, b byte) {
	const half = 1 << 15
	y, cb, cr := int32(rows[0][x]), int32(rows[1][x])-128, int32(rows[2][x])-128
	return clip(y + (91881*cr+half)>>16), clip(y + (half-22554*cb-46802*cr)>>16), clip(y + (116130*cb+half)>>16)
}

// dctEven and dctOdd are the weights of the even and the odd coefficients in the first four of eight samples, the other four being
// their mirror image: cosines times √2, of 13 bits, as the sums of the rounded factors of Loeffler, Ligtenberg and Moschytz
// give them, which libjpeg takes.
var (
	dctEven = [4][4]int32{{8192, 10703, 8192, 4433}, {8192, 4433, -8192, -10704}, {8192, -4433, -8192, 10704}, {8192, -10703, 8192, -4433}}
	dctOdd  = [4][4]int32{{11363, 9633, 6437, 2260}, {9633, -2259, -11362, -6436}, {6437, -11362, 2261, 9633}, {2260, -6436, 9633, -11363}}
)

// inverse1D transforms eight numbers, step apart, and cuts off shift bits, rounded.
func inverse1D(v []int32, step int, shift uint) {
	half := int32(1) << (shift - 1)
	var sums [8]int32
	for i := range 4 {
		e, o := &dctEven[i], &dctOdd[i]
		even := e[0]*v[0] + e[1]*v[2*step] + e[2]*v[4*step] + e[3]*v[6*step]
		odd := o[0]*v[step] + o[1]*v[3*step] + o[2]*v[5*step] + o[3]*v[7*step]
		sums[i], sums[7-i] = (even+odd+half)>>shift, (even-odd+half)>>shift
	}
	for i, s := range sums {
		v[i*step] = s
	}
}

// inverseDCT transforms a block: columns to 2 bits below the point, then rows.
func inverseDCT(dst []byte, stride int, coef *[64]int16, quant *[64]uint16) {
	var v [64]int32
	for i, c := range coef {
		v[i] = int32(c) * int32(quant[i])
	}
	for x := range 8 {
		inverse1D(v[x:], 8, 13-2)
	}
	for y := range 8 {
		inverse1D(v[8*y:], 1, 13+2+3)
		for x, s := range v[8*y : 8*y+8] {
			dst[y*stride+x] = clip(s + 128)
		}
	}
}

package imagefile

import (
	"errors"
	"fmt"
)

// decodePNM reads the portable formats: P1 and P4 are bitmaps, P2 and P5 gray, P3 and P6 colour; the first of each is text.
func decodePNM(data []byte, reserve func(width, height int) error) (*Image, error) {
	kind := data[1] - '0'
	text, bitmap, channels := kind <= 3, kind == 1 || kind == 4, 1
	if kind == 3 || kind == 6 {
		channels = 3
	}
	r := pnmReader{data: data[2:]}
	width, err := r.number(false)
	if err != nil {
		return nil, err
	}
	height, err := r.number(false)
	if err != nil {
		return nil, err
	}
	top := 1
	if !bitmap {
		if top, err = r.number(false); err != nil {
			return nil, err
		}
	}
	if width < 1 || height < 1 || top < 1 || top > 1<<16-1 {
		return nil, fmt.Errorf("a size of %d×%d with values to %d", width, height, top)
	}
	if err := reserve(width, height); err != nil {
		return nil, err
	}
	if !text {
		if len(r.data) == 0 {
			return nil, errShort
		}
		r.data = r.data[1:] // the one blank after the header
	}
	m := newImage(width, height)
	for y := range height {
		row := m.row(y)
		for i := range width * channels {
			var v int
			switch {
			case text:
				v, err = r.number(bitmap)
			case bitmap:
				if v, err = r.byte(i / 8); err == nil {
					v = v >> (7 - i%8) & 1
				}
			case top < 256:
				v, err = r.byte(i)
			default:
				if v, err = r.byte(2*i + 1); err == nil {
					v |= int(r.data[2*i]) << 8
				}
			}
			if err == nil && v > top {
				err = fmt.Errorf("a value of %d over %d", v, top)
			}
			if err != nil {
				return nil, err
			}
			if bitmap {
				v = 1 - v // 1 is black
			}
			v = (v*255 + top/2) / top
			if channels == 3 {
				row[i] = byte(v)
			} else {
				row[3*i], row[3*i+1], row[3*i+2] = byte(v), byte(v), byte(v)
			}
		}
		switch {
		case text:
		case bitmap:
			r.data = r.data[(width+7)/8:]
		case top < 256:
			r.data = r.data[width*channels:]
		default:
			r.data = r.data[2*width*channels:]
		}
	}
	return m, nil
}

var errShort = errors.New("the data ends within the image")

type pnmReader struct{ data []byte }

func (r *pnmReader) byte(i int) (int, error) {
	if i >= len(r.data) {
		return 0, errShort
	}
	return int(r.data[i]), nil
}

// number reads a decimal number after blanks and comments; of a bitmap, one digit.
func (r *pnmReader) number(digit bool) (int, error) {
	d := r.data
	for len(d) > 0 && (d[0] == '#' || d[0] == ' ' || d[0] >= '\t' && d[0] <= '\r') {
		if d[0] == '#' {
			for len(d) > 0 && d[0] != '\n' && d[0] != '\r' {
				d = d[1:]
			}
			continue
		}
		d = d[1:]
	}
	n, digits := 0, 0
	for digits < len(d) && d[digits] >= '0' && d[digits] <= '9' && n < 1<<24 && !(digit && digits == 1) {
		n = 10*n + int(d[digits]-'0')
		digits++
	}
	if digits == 0 || n >= 1<<24 {
		return 0, errors.New("a number is missing or too large")
	}
	r.data = d[digits:]
	return n, nil
}

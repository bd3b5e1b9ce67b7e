package imagefile

import (
	"bytes"
	"fmt"
	"image"

	"golang.org/x/image/webp"
)

func decodeWebP(data []byte, reserve func(width, height int) error) (*Image, error) {
	if matches(data, "RIFF????WEBPVP8X????") && len(data) > 20 && data[20]&2 != 0 {
		return nil, fmt.Errorf("animated WebP is %w", errUnsupported)
	}
	c, err := webp.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if err := reserve(c.Width, c.Height); err != nil {
		return nil, err
	}
	src, err := webp.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	switch src := src.(type) {
	case *image.YCbCr:
		return fromVP8(src), nil
	case *image.NYCbCrA:
		return fromVP8(&src.YCbCr), nil
	}
	return fromImage(src), nil
}

// fromVP8 converts the narrow range of ITU-R BT.601, in which luma is 16 to 235 and chroma 16 to 240, with the
// precision that libwebp has: coefficients of 14 bits, products of 6.
func fromVP8(src *image.YCbCr) *Image {
	m := newImage(src.Rect.Dx(), src.Rect.Dy())
	chroma := plane{stride: src.CStride, width: (m.Width + 1) / 2, height: (m.Height + 1) / 2, sx: 2, sy: 2, smooth: true, round: [2]int{8, 8}}
	us, vs := chroma, chroma
	us.pix, vs.pix = src.Cb, src.Cr
	urow, vrow := make([]byte, m.Width), make([]byte, m.Width)
	part := func(sample byte, coefficient int32) int32 { return int32(sample) * coefficient >> 8 }
	for y := range m.Height {
		us.row(urow, y)
		vs.row(vrow, y)
		row := m.row(y)
		for x, luma := range src.Y[y*src.YStride:][:m.Width] {
			l, u, v := part(luma, 19077), urow[x], vrow[x]
			row[3*x] = clip((l + part(v, 26149) - 14234) >> 6)
			row[3*x+1] = clip((l - part(u, 6419) - part(v, 13320) + 8708) >> 6)
			row[3*x+2] = clip((l + part(u, 33050) - 17685) >> 6)
		}
	}
	return m
}

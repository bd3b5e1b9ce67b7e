package imagefile

// plane is one component of an image, its samples sx×sy pixels large.
type plane struct {
	pix                   []byte
	stride, width, height int
	sx, sy                int
	smooth                bool   // interpolate, where sx or sy is 2
	round                 [2]int // added to 16ths at even and odd pixels before they are cut off
}

func (p *plane) line(y int) []byte { return p.pix[y*p.stride : y*p.stride+p.width] }

// nearest are the samples around pixel i along an axis of n samples of two pixels: that which holds the pixel, and
// that which is next to it.
func nearest(i, n int) (near, far int) {
	near = i / 2
	return near, max(0, min(near-1+2*(i&1), n-1))
}

// row gives row y of the image: a pixel is made of three parts of the sample that holds it and one of the next.
func (p *plane) row(dst []byte, y int) {
	if !p.smooth || p.sx > 2 || p.sy > 2 || p.sx == 1 && p.sy == 1 {
		line := p.line(y / p.sy)
		for x := range dst {
			dst[x] = line[x/p.sx]
		}
		return
	}
	if p.sy == 1 {
		line := p.line(y)
		for x := range dst {
			i, j := nearest(x, p.width)
			dst[x] = byte((3*int(line[i]) + int(line[j]) + 1 + x&1) >> 2)
		}
		return
	}
	i, j := nearest(y, p.height)
	near, far := p.line(i), p.line(j)
	for x := range dst {
		if p.sx == 1 {
			dst[x] = byte((3*int(near[x]) + int(far[x]) + 1 + y&1) >> 2)
			continue
		}
		i, j := nearest(x, p.width)
		dst[x] = byte((9*int(near[i]) + 3*int(far[i]) + 3*int(near[j]) + int(far[j]) + p.round[x&1]) >> 4)
	}
}

func clip(v int32) byte { return byte(max(0, min(v, 255))) }

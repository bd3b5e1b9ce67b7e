package kernel

import "unsafe"

// A frame is an image copied with its padding, so that no tap of a convolution falls
// outside, and with the columns of each row sorted by their remainder of StrideW, so
// that the taps of neighbouring outputs are neighbours:
//
//	data[c·plane + h·row + (w mod StrideW)·phase + w div StrideW]
//
// holds padded pixel (h, w) of channel c.
type frame struct {
	plane, row, phase int
}

// frameSlack is how far past a frame's end kernels may read.
const frameSlack = 16

func (cv Conv2D) frame() frame {
	oh, ow := cv.OutSize()
	height := (oh-1)*cv.StrideH + (cv.KH-1)*cv.DilH + 1
	width := (ow-1)*cv.StrideW + (cv.KW-1)*cv.DilW + 1
	phase := ceilDiv(width, cv.StrideW)
	row := phase * cv.StrideW
	return frame{plane: height * row, row: row, phase: phase}
}

// tap returns the offset of the input of output (0, 0) under tap (kh, kw).
func (cv Conv2D) tap(f frame, kh, kw int) int {
	w := kw * cv.DilW
	return kh*cv.DilH*f.row + w%cv.StrideW*f.phase + w/cv.StrideW
}

// fillFrameOf is [fillFrame] for pixels of unit elements.
func fillFrameOf[T Float](cv Conv2D, f frame, dst, x []T, unit int) {
	if unit == 1 {
		fillFrame(cv, f, dst, x)
		return
	}
	clear(dst)
	for r := range f.plane / f.row {
		h := r - cv.PadTop
		if h < 0 || h >= cv.H {
			continue
		}
		row, src := dst[r*f.row*unit:][:f.row*unit], x[h*cv.W*unit:][:cv.W*unit]
		for s := range cv.StrideW {
			out := row[s*f.phase*unit:][:f.phase*unit]
			q := ceilDiv(max(0, cv.PadLeft-s), cv.StrideW)
			w := q*cv.StrideW + s - cv.PadLeft
			n := min(f.phase-q, ceilDiv(max(0, cv.W-w), cv.StrideW))
			if n <= 0 {
				continue
			}
			if cv.StrideW == 1 {
				copy(out[q*unit:][:n*unit], src[w*unit:])
				continue
			}
			for i := range n {
				copy(out[(q+i)*unit:][:unit], src[(w+i*cv.StrideW)*unit:])
			}
		}
	}
}

// fillFrame copies one channel, H×W, into dst of length plane.
func fillFrame[T Float](cv Conv2D, f frame, dst, x []T) {
	if cv.PadTop|cv.PadLeft|cv.PadBottom|cv.PadRight != 0 || f.row > cv.W {
		clear(dst)
	}
	for r := range f.plane / f.row {
		h := r - cv.PadTop
		if h < 0 || h >= cv.H {
			continue
		}
		row, src := dst[r*f.row:][:f.row], x[h*cv.W:][:cv.W]
		if cv.StrideW == 1 {
			at, from := max(cv.PadLeft, 0), max(-cv.PadLeft, 0)
			if at < len(row) && from < len(src) {
				copy(row[at:], src[from:])
			}
			continue
		}
		if cv.StrideW == 2 && cv.PadLeft >= 0 && (cv.PadLeft+1)/2 <= f.phase {
			// Pixel 0 comes at column PadLeft, which is of the even phase or the odd one.
			even, odd := row[(cv.PadLeft+1)/2:f.phase], row[f.phase+cv.PadLeft/2:]
			if cv.PadLeft%2 == 1 {
				even, odd = odd, even
			}
			Deinterleave(even, odd, src)
			continue
		}
		for s := range cv.StrideW {
			out := row[s*f.phase:][:f.phase]
			// Element q is pixel q·StrideW + s - PadLeft.
			q := ceilDiv(max(0, cv.PadLeft-s), cv.StrideW)
			for w := q*cv.StrideW + s - cv.PadLeft; q < len(out) && w < len(src); w += cv.StrideW {
				out[q] = src[w]
				q++
			}
		}
	}
}

// Deinterleave sets even[i] = src[2·i] and odd[i] = src[2·i+1] as far as src and each of them goes.
func Deinterleave[T Float](even, odd, src []T) {
	even, odd = even[:min(len(even), (len(src)+1)/2)], odd[:min(len(odd), len(src)/2)]
	i := 0
	if is32[T]() && vector.deinterleave != nil {
		if i = min(len(even), len(odd)) &^ 7; i > 0 {
			vector.deinterleave(&f32(even)[0], &f32(odd)[0], &f32(src)[0], i)
		}
	}
	for k := i; k < len(even); k++ {
		even[k] = src[2*k]
	}
	for k := i; k < len(odd); k++ {
		odd[k] = src[2*k+1]
	}
}

// A chunk is a run of n neighbours in a row of a panel: from offset dst in the panel's row, and
// src in the frame.
type chunk struct{ dst, src, n, _ int32 }

// An im2colSource makes panels of the column matrix of an image,
// (C/Group·KH·KW)×(OH·OW), straight from its frame.
type im2colSource[T Float] struct {
	group  int
	data   []T // the frame
	size   int // of a group's part of it
	rows   []int32
	cols   int // of a panel
	ow     int // elements in a row of outputs
	step   int // from one row of outputs to the next, in the frame
	chunks []chunk
	first  []int32 // chunk of each panel, and the number of chunks
}

var im2cols32, im2cols64 recycled

func im2colPool[T Float]() *recycled {
	if is32[T]() {
		return &im2cols32
	}
	return &im2cols64
}

func (im *im2colSource[T]) recycle() { im2colPool[T]().products.Put(im) }

// newIm2col is the source for an image, or for several as C×H×W×unit.
func newIm2col[T Float](p *Pool, cv Conv2D, image []T, cols, unit int) *im2colSource[T] {
	im, _ := im2colPool[T]().products.Get().(*im2colSource[T])
	if im == nil {
		im = new(im2colSource[T])
	}
	f, chans := cv.frame(), cv.C/cv.Group
	plane := f.plane * unit
	im.group, im.cols, im.size = 0, cols, chans*plane
	im.data = grow(im.data, cv.C*plane+frameSlack)
	InParts(p, cv.C, max(1, serialWork/8/max(1, plane)), frameFill[T]{cv, f, im.data, image, unit})
	im.rows = im.rows[:0]
	for c := range chans {
		for kh := range cv.KH {
			for kw := range cv.KW {
				im.rows = append(im.rows, int32((c*f.plane+cv.tap(f, kh, kw))*unit))
			}
		}
	}
	im.chunks, im.first = im.chunks[:0], im.first[:0]
	oh, ow := cv.OutSize()
	im.ow, im.step = ow*unit, cv.StrideH*f.row*unit
	for j := 0; j < oh*im.ow; j += cols {
		im.first = append(im.first, int32(len(im.chunks)))
		im.chunks = im.cut(im.chunks, j, min(cols, oh*im.ow-j))
	}
	im.first = append(im.first, int32(len(im.chunks)))
	return im
}

// frameFill is the copying of channels, of pixels of unit elements, into frames.
type frameFill[T Float] struct {
	cv     Conv2D
	f      frame
	dst, x []T
	unit   int
}

// Part copies the channels [lo, hi).
func (ff frameFill[T]) Part(lo, hi int) {
	plane := ff.f.plane * ff.unit
	for c := lo; c < hi; c++ {
		fillFrameOf(ff.cv, ff.f, ff.dst[c*plane:][:plane], ff.x[c*ff.cv.H*ff.cv.W*ff.unit:], ff.unit)
	}
}

// cut appends the chunks of outputs [j, j+n), the first of which goes to offset 0. No chunk
// is longer than a register, if there are registers.
func (im *im2colSource[T]) cut(chunks []chunk, j, n int) []chunk {
	for i := 0; i < n; {
		w := min(im.ow-(j+i)%im.ow, n-i)
		if lanes := active.lanes(); lanes > 1 {
			w = min(w, lanes)
		}
		chunks = append(chunks, chunk{dst: int32(i), src: int32((j+i)/im.ow*im.step + (j+i)%im.ow), n: int32(w)})
		i += w
	}
	return chunks
}

func (im *im2colSource[T]) packPanel(dst []T, j0, width, stride, p0, n int) {
	q := j0 / im.cols
	im.gather(dst, stride, im.rows[p0:p0+n], im.chunks[im.first[q]:im.first[q+1]])
}

// gather sets row i of dst to the chunks of row rows[i] of the column matrix. It may write
// up to a register past the end of each row.
func (im *im2colSource[T]) gather(dst []T, stride int, rows []int32, chunks []chunk) {
	src, n := im.data[im.group*im.size:], len(rows)
	if n == 0 || len(chunks) == 0 {
		return
	}
	if is32[T]() && vector.gather != nil {
		vector.gather((*float32)(unsafe.Pointer(&dst[0])), (*float32)(unsafe.Pointer(&src[0])), &rows[0], n, &chunks[0], len(chunks), stride)
		return
	}
	for i, r := range rows {
		row := dst[i*stride:]
		for _, c := range chunks {
			copy(row[c.dst:c.dst+c.n], src[r+c.src:])
		}
	}
}

// im2rowSource makes panels of the transpose, (OH·OW)×(C/Group·KH·KW).
type im2rowSource[T Float] struct {
	*im2colSource[T]
	kern *gemmKernel[T]
}

func (im im2rowSource[T]) packPanel(dst []T, j0, width, stride, p0, n int) {
	ws := getWorkspace[T]()
	chunks := im.cut(ws.chunks[:0], p0, n)
	ws.chunks = chunks
	ws.edge = grow(ws.edge, width*n+panelSlack)
	im.gather(ws.edge, n, im.rows[j0:j0+width], chunks)
	im.kern.packPanel(dst, side[T]{ws.edge, n, false}, 0, width, stride, 0, n)
	ws.put()
}

// readFrame is the reverse of fillFrame: x, H×W, is set to its pixels in the frame, and to
// zero where they have none.
func readFrame[T Float](cv Conv2D, f frame, x, data []T) {
	clear(x)
	for r := range f.plane / f.row {
		h := r - cv.PadTop
		if h < 0 || h >= cv.H {
			continue
		}
		row, dst := data[r*f.row:][:f.row], x[h*cv.W:][:cv.W]
		for s := range cv.StrideW {
			in := row[s*f.phase:][:f.phase]
			q := ceilDiv(max(0, cv.PadLeft-s), cv.StrideW)
			for w := q*cv.StrideW + s - cv.PadLeft; q < len(in) && w < len(dst); w += cv.StrideW {
				dst[w] = in[q]
				q++
			}
		}
	}
}

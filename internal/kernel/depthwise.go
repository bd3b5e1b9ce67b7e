package kernel

import (
	"sync"
	"unsafe"
)

// depthwiseScratch is what a worker needs for one plane.
type depthwiseScratch struct {
	frame32 []float32
	frame64 []float64
	offsets []int32
}

var depthwiseScratches = sync.Pool{New: func() any { return new(depthwiseScratch) }}

// convDepthwise computes a convolution in which each channel of Y has one of X: every
// plane is framed, and its rows are sums of shifted rows of the frame.
func convDepthwise[T Float](p *Pool, cv Conv2D, y, x, w []T, ep *EpilogueOf[T]) {
	oh, ow := cv.OutSize()
	pix, f, ntaps, rows := oh*ow, cv.frame(), cv.KH*cv.KW, cv.M/cv.Group
	grain := max(1, serialWork/4/max(1, pix*ntaps*rows))
	p.For(cv.N*cv.C, grain, func(lo, hi int) {
		s := depthwiseScratches.Get().(*depthwiseScratch)
		defer depthwiseScratches.Put(s)
		var data []T
		if is32[T]() {
			s.frame32 = grow(s.frame32, f.plane+frameSlack)
			data = unsafe.Slice((*T)(unsafe.Pointer(&s.frame32[0])), len(s.frame32))
		} else {
			s.frame64 = grow(s.frame64, f.plane+frameSlack)
			data = unsafe.Slice((*T)(unsafe.Pointer(&s.frame64[0])), len(s.frame64))
		}
		s.offsets = s.offsets[:0]
		for kh := range cv.KH {
			for kw := range cv.KW {
				s.offsets = append(s.offsets, int32(cv.tap(f, kh, kw)))
			}
		}
		for q := lo; q < hi; q++ {
			fillFrame(cv, f, data[:f.plane], x[q*cv.H*cv.W:])
			n, c := q/cv.C, q%cv.C
			for m := c * rows; m < (c+1)*rows; m++ {
				off := (n*cv.M + m) * pix
				plane := y[off:][:pix]
				var bias T
				if ep != nil && ep.RowBias != nil {
					bias = ep.RowBias[m]
				}
				for r := range oh {
					taps(plane[r*ow:][:ow], data[r*cv.StrideH*f.row:], s.offsets, w[m*ntaps:][:ntaps], bias)
				}
				if ep != nil {
					if ep.Residual != nil {
						Add(plane, plane, ep.Residual[off:][:pix])
					}
					ep.activate(plane)
				}
			}
		}
	})
}

// taps sets dst[i] = bias + Σ_t weights[t]·src[offsets[t]+i]. src has frameSlack elements more than
// are needed.
func taps[T Float](dst, src []T, offsets []int32, weights []T, bias T) {
	if is32[T]() && vector.taps != nil {
		d, s, w := f32(dst), f32(src), f32(weights)
		vector.taps(&d[0], &s[0], len(d), &offsets[0], &w[0], len(w), float32(bias))
		return
	}
	for i := range dst {
		dst[i] = bias
	}
	for t, w := range weights {
		Axpy(dst, w, src[offsets[t]:][:len(dst)])
	}
}

package kernel

// A planeScratch is what a worker needs for one plane of a depthwise convolution.
type planeScratch[T Float] struct {
	frame   []T     // with slack
	offsets []int32 // of the taps
}

var planes32, planes64 recycled

func planePool[T Float]() *recycled {
	if is32[T]() {
		return &planes32
	}
	return &planes64
}

func newPlaneScratch[T Float](cv Conv2D) *planeScratch[T] {
	s, _ := planePool[T]().workspaces.Get().(*planeScratch[T])
	if s == nil {
		s = new(planeScratch[T])
	}
	f := cv.frame()
	s.frame, s.offsets = grow(s.frame, f.plane+frameSlack), s.offsets[:0]
	for kh := range cv.KH {
		for kw := range cv.KW {
			s.offsets = append(s.offsets, int32(cv.tap(f, kh, kw)))
		}
	}
	return s
}

func (s *planeScratch[T]) recycle() { planePool[T]().workspaces.Put(s) }

// depthwiseGrain is how many planes are worth another worker.
func (cv Conv2D) depthwiseGrain() int {
	oh, ow := cv.OutSize()
	return max(1, serialWork/4/max(1, oh*ow*cv.KH*cv.KW*cv.M/cv.Group))
}

// convDepthwise computes a convolution in which each channel of Y has one of X: every
// plane is framed, and its rows are sums of shifted rows of the frame.
func convDepthwise[T Float](p *Pool, cv Conv2D, y, x, w []T, ep *EpilogueOf[T]) {
	d := depthwisePlanes[T]{cv: cv, y: y, x: x, w: w}
	if ep != nil {
		d.ep = *ep
	}
	InParts(p, cv.N*cv.C, cv.depthwiseGrain(), d)
}

// depthwisePlanes is the work of [convDepthwise].
type depthwisePlanes[T Float] struct {
	cv      Conv2D
	y, x, w []T
	ep      EpilogueOf[T]
}

// Part computes what comes of the planes [lo, hi) of X.
func (d depthwisePlanes[T]) Part(lo, hi int) {
	cv := d.cv
	oh, ow := cv.OutSize()
	pix, f, ntaps, rows := oh*ow, cv.frame(), cv.KH*cv.KW, cv.M/cv.Group
	s := newPlaneScratch[T](cv)
	defer s.recycle()
	for q := lo; q < hi; q++ {
		fillFrame(cv, f, s.frame[:f.plane], d.x[q*cv.H*cv.W:])
		n, c := q/cv.C, q%cv.C
		for m := c * rows; m < (c+1)*rows; m++ {
			off := (n*cv.M + m) * pix
			plane := d.y[off:][:pix]
			var bias T
			if d.ep.RowBias != nil {
				bias = d.ep.RowBias[m]
			}
			taps(plane, ow, s.frame, cv.StrideH*f.row, s.offsets, d.w[m*ntaps:][:ntaps], bias)
			if d.ep.Residual != nil {
				Add(plane, plane, d.ep.Residual[off:][:pix])
			}
			d.ep.activate(plane)
		}
	}
}

// taps sets dst[r·n+i] = bias + Σ_t weights[t]·src[r·ld+offsets[t]+i] for i < n in all rows of dst.
// src has frameSlack elements more than are needed.
func taps[T Float](dst []T, n int, src []T, ld int, offsets []int32, weights []T, bias T) {
	if is32[T]() && vector.taps != nil {
		d, s, w := f32(dst), f32(src), f32(weights)
		vector.taps(&d[0], &s[0], n, len(d)/n, 4*n, 4*ld, &offsets[0], &w[0], len(w), float32(bias))
		return
	}
	for i := range dst {
		dst[i] = bias
	}
	for r := range len(dst) / n {
		row := dst[r*n:][:n]
		for t, w := range weights {
			Axpy(row, w, src[r*ld+int(offsets[t]):][:n])
		}
	}
}

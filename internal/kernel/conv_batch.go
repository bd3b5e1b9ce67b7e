package kernel

// Images of few pixels. A product with the columns of one of them would fill a tile in part only, and make a pass over all weights, so
// that all images are worked at once with the number of the image as the innermost axis: C×H×W×N, which is N×(C·H·W) transposed. What a tap
// sees of a row of outputs is then one run of all images.

// smallImages reports whether cv's images are worked at once.
func (cv Conv2D) smallImages() bool {
	oh, ow := cv.OutSize()
	pix := oh * ow
	return cv.N > 1 && cv.Group == 1 && !cv.depthwise() && pix > 0 && pix <= 64 && max(cv.C*cv.N*max(cv.frame().plane, cv.H*cv.W), cv.M*cv.N*pix) <= 1<<24
}

// asideSpace is memory for images in that order and for columns.
type asideSpace[T Float] struct{ x, y, cols []T }

var aside32, aside64 recycled

func asidePool[T Float]() *recycled {
	if is32[T]() {
		return &aside32
	}
	return &aside64
}

func getAside[T Float]() *asideSpace[T] {
	s, _ := asidePool[T]().workspaces.Get().(*asideSpace[T])
	if s == nil {
		s = new(asideSpace[T])
	}
	return s
}

func (s *asideSpace[T]) recycle() { asidePool[T]().workspaces.Put(s) }

// turned sets dst to src, rows×cols, transposed.
func turned[T Float](p *Pool, dst, src []T, rows, cols int) {
	InParts(p, cols, max(1, serialWork/8/rows), turnedRows[T]{dst, src, rows, cols})
}

// turnedRows is the work of [turned].
type turnedRows[T Float] struct {
	dst, src   []T
	rows, cols int
}

// Part makes the rows [lo, hi) of what is transposed.
func (t turnedRows[T]) Part(lo, hi int) {
	if is32[T]() {
		turn(f32(t.dst)[lo*t.rows:hi*t.rows], t.rows, f32(t.src)[lo:], t.cols, t.rows, hi-lo)
		return
	}
	for j := lo; j < hi; j++ {
		for i := range t.rows {
			t.dst[j*t.rows+i] = t.src[i*t.cols+j]
		}
	}
}

// convSmall is Conv for [Conv2D.smallImages].
func convSmall[T Float](p *Pool, cv Conv2D, y, x []T, w *PackedConv[T], ep *EpilogueOf[T]) {
	oh, ow := cv.OutSize()
	pix, image, k := oh*ow, cv.C*cv.H*cv.W, cv.C*cv.KH*cv.KW
	n := pix * cv.N
	s := getAside[T]()
	defer s.recycle()
	s.x, s.y = grow(s.x, image*cv.N), grow(s.y, cv.M*n)
	turned(p, s.x, x, cv.N, image)
	kern := activeGemm[T]()
	var packed []T
	if w.constant {
		pa := w.panels()[0]
		kern, packed = pa.kern, pa.panels
	}
	pr := newProduct(kern, cv.M, n, k, 1, 0, s.y, n, nil)
	if pr.packedA = packed; packed == nil {
		pr.a = sideA(false, w.plain, k)
	}
	if cv.pointwise() {
		pr.b = sideB(false, s.x, n)
	} else {
		im := newIm2col(p, cv, s.x, kern.cols, cv.N)
		defer im.recycle()
		pr.panelsB = im
	}
	pr.run(p)
	turned(p, y, s.y, cv.M*pix, cv.N)
	if ep == nil {
		return
	}
	InParts(p, cv.N*cv.M, max(1, serialWork/8/pix), planeEndings[T]{y, *ep, cv.M, pix})
}

// planeEndings is an epilogue of planes of pix pixels, of which each image has m.
type planeEndings[T Float] struct {
	y      []T
	ep     EpilogueOf[T]
	m, pix int
}

// Part ends the planes [lo, hi).
func (e planeEndings[T]) Part(lo, hi int) {
	for q := lo; q < hi; q++ {
		plane := e.y[q*e.pix:][:e.pix]
		if e.ep.RowBias != nil {
			AddScalar(plane, plane, e.ep.RowBias[q%e.m])
		}
		if e.ep.Residual != nil {
			Add(plane, plane, e.ep.Residual[q*e.pix:][:e.pix])
		}
		e.ep.activate(plane)
	}
}

// gradInputSmall is ConvGradInput for [Conv2D.smallImages].
func gradInputSmall[T Float](p *Pool, cv Conv2D, dx, dy, w []T) {
	oh, ow := cv.OutSize()
	pix, image, taps := oh*ow, cv.C*cv.H*cv.W, cv.KH*cv.KW
	n, k := pix*cv.N, cv.C*taps
	s := getAside[T]()
	defer s.recycle()
	s.x, s.y = grow(s.x, image*cv.N), grow(s.y, cv.M*n)
	turned(p, s.y, dy, cv.N, cv.M*pix)
	if cv.pointwise() {
		Gemm(p, true, false, k, n, cv.M, 1, w, k, s.y, n, 0, s.x, n)
	} else {
		s.cols = grow(s.cols, PackedBSize[T](cv.M, n))
		pb := PackBInto(s.cols, false, cv.M, n, s.y, n)
		// So many channels at a time that their columns are still in the cache when they are added up, whatever the number of threads: what is
		// left over of tiles is summed in another order.
		chans := max(1, min(columnsAside/(taps*n), ceilDiv(cv.C, 8)))
		p.For(ceilDiv(cv.C, chans), 1, func(lo, hi int) {
			ws := getAside[T]()
			defer ws.recycle()
			for b := lo; b < hi; b++ {
				first, last := b*chans, min((b+1)*chans, cv.C)
				ws.cols = grow(ws.cols, (last-first)*taps*n)
				GemmPackedB(nil, true, (last-first)*taps, 1, w[first*taps:], k, pb, 0, ws.cols, n, nil)
				part := s.x[first*cv.H*cv.W*cv.N : last*cv.H*cv.W*cv.N]
				clear(part)
				for c := range last - first {
					col2im(cv, part[c*cv.H*cv.W*cv.N:], ws.cols[c*taps*n:], n, cv.N)
				}
			}
		})
	}
	turned(p, dx, s.x, image, cv.N)
}

// columnsAside is how many columns' elements fit the second cache beside the weights that make them.
const columnsAside = 1 << 16

// gradWeightSmall is ConvGradWeight for [Conv2D.smallImages].
func gradWeightSmall[T Float](p *Pool, cv Conv2D, dw, dy, x []T, beta T) {
	oh, ow := cv.OutSize()
	pix, image, k := oh*ow, cv.C*cv.H*cv.W, cv.C*cv.KH*cv.KW
	n := pix * cv.N
	s := getAside[T]()
	defer s.recycle()
	s.x, s.y = grow(s.x, image*cv.N), grow(s.y, cv.M*n)
	turned(p, s.x, x, cv.N, image)
	turned(p, s.y, dy, cv.N, cv.M*pix)
	if cv.pointwise() {
		Gemm(p, false, true, cv.M, k, n, 1, s.y, n, s.x, n, beta, dw, k)
		return
	}
	kern := activeGemm[T]()
	im := newIm2col(p, cv, s.x, kern.cols, cv.N)
	defer im.recycle()
	pr := newProduct(kern, cv.M, k, n, 1, beta, dw, k, nil)
	pr.a, pr.panelsB = sideA(false, s.y, n), im2rowSource[T]{im, kern}
	pr.run(p)
}

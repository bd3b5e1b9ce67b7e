package kernel

// Images of few pixels. A product with the columns of one of them would fill a tile in part only, so
// the columns of all images are put side by side: element (k, n·pix+j) is that of pixel j of image n.

// smallImages reports whether cv's images are worked side by side.
func (cv Conv2D) smallImages() bool {
	oh, ow := cv.OutSize()
	pix := oh * ow
	return cv.N > 1 && cv.Group == 1 && !cv.depthwise() && pix > 0 && pix < 64 && cv.C*cv.KH*cv.KW*cv.N*pix <= 1<<24
}

// sideBySide sets dst[r·ld + n·pix+j] = src[(n·rows+r)·pix+j].
func sideBySide[T Float](dst []T, ld int, src []T, images, rows, pix int) {
	for n := range images {
		for r := range rows {
			copy(dst[r*ld+n*pix:][:pix], src[(n*rows+r)*pix:])
		}
	}
}

// columnsOf makes the column matrix of all images, C·KH·KW rows of ld elements.
func columnsOf[T Float](p *Pool, cv Conv2D, x []T) (cols []T, ld int) {
	oh, ow := cv.OutSize()
	pix, k, image := oh*ow, cv.C*cv.KH*cv.KW, cv.C*cv.H*cv.W
	if cv.pointwise() {
		ld = cv.N * pix
		cols = make([]T, k*ld)
		sideBySide(cols, ld, x, cv.N, k, pix)
		return cols, ld
	}
	ld = cv.N*pix + panelSlack
	cols = make([]T, k*ld+panelSlack)
	for n := range cv.N { // what is written past the end of an image's columns is the next image's, or slack
		im := newIm2col(p, cv, x[n*image:][:image], pix)
		im.group = 0
		p.For(k, max(1, serialWork/8/pix), func(lo, hi int) {
			im.gather(cols[lo*ld+n*pix:], ld, im.rows[lo:hi], im.chunks)
		})
		im.recycle()
	}
	return cols, ld
}

// convSmall is Conv for [Conv2D.smallImages].
func convSmall[T Float](p *Pool, cv Conv2D, y, x []T, w *PackedConv[T], ep *EpilogueOf[T]) {
	oh, ow := cv.OutSize()
	pix := oh * ow
	cols, ld := columnsOf(p, cv, x)
	out := make([]T, cv.M*cv.N*pix)
	GemmPackedA(p, false, cv.N*pix, 1, w.panels()[0], cols, ld, 0, out, cv.N*pix, nil)
	p.For(cv.N*cv.M, max(1, serialWork/8/pix), func(lo, hi int) {
		for q := lo; q < hi; q++ {
			n, m := q/cv.M, q%cv.M
			plane := y[q*pix:][:pix]
			copy(plane, out[(m*cv.N+n)*pix:])
			if ep == nil {
				continue
			}
			if ep.RowBias != nil {
				AddScalar(plane, plane, ep.RowBias[m])
			}
			if ep.Residual != nil {
				Add(plane, plane, ep.Residual[q*pix:][:pix])
			}
			ep.activate(plane)
		}
	})
}

// gradInputSmall is ConvGradInput for [Conv2D.smallImages].
func gradInputSmall[T Float](p *Pool, cv Conv2D, dx, dy, w []T) {
	oh, ow := cv.OutSize()
	pix, k, image := oh*ow, cv.C*cv.KH*cv.KW, cv.C*cv.H*cv.W
	n := cv.N * pix
	side, cols := make([]T, cv.M*n), make([]T, k*n)
	sideBySide(side, n, dy, cv.N, cv.M, pix)
	Gemm(p, true, false, k, n, cv.M, 1, w, k, side, n, 0, cols, n)
	if cv.pointwise() {
		for q := range cv.N * cv.C {
			copy(dx[q*pix:][:pix], cols[(q%cv.C)*n+q/cv.C*pix:])
		}
		return
	}
	clear(dx[:cv.N*image])
	taps := cv.KH * cv.KW
	p.For(cv.N*cv.C, max(1, serialWork/8/(taps*pix)), func(lo, hi int) {
		for q := lo; q < hi; q++ {
			i, c := q/cv.C, q%cv.C
			col2im(cv, dx[q*cv.H*cv.W:], cols[c*taps*n+i*pix:], n)
		}
	})
}

// gradWeightSmall is ConvGradWeight for [Conv2D.smallImages].
func gradWeightSmall[T Float](p *Pool, cv Conv2D, dw, dy, x []T) {
	oh, ow := cv.OutSize()
	pix, k := oh*ow, cv.C*cv.KH*cv.KW
	n := cv.N * pix
	cols, ld := columnsOf(p, cv, x)
	side := make([]T, cv.M*n)
	sideBySide(side, n, dy, cv.N, cv.M, pix)
	Gemm(p, false, true, cv.M, k, n, 1, side, n, cols, ld, 1, dw, k)
}

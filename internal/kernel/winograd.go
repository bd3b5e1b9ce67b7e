package kernel

import "sync"

// Winograd's minimal filtering F(4×4, 3×3), after Lavin and Gray (2015): tiles of 6×6 pixels, which overlap by two, are transformed,
// multiplied by transformed weights, and transformed back to 4×4 outputs, with a quarter of the multiplications. Its
// rounding error is greater than that of a direct convolution: a test holds it below 64·2^-24 times the greatest sum of magnitudes
// that an output of the same tile adds up.

// winogradWeights is the weights of one convolution, transformed: for each of 36 elements a matrix M×C.
type winogradWeights struct {
	once sync.Once
	u    [36]*PackedA
}

// winograd reports whether cv is of the kind for which tiles are the quicker way.
func (cv Conv2D) winograd() bool {
	if cv.KH != 3 || cv.KW != 3 || cv.StrideH != 1 || cv.StrideW != 1 || cv.DilH != 1 || cv.DilW != 1 || cv.Group != 1 || cv.C < 16 || cv.M < 16 || cv.PadLeft < 0 || cv.PadTop < 0 {
		return false
	}
	// The transforms cost as much as some 40 multiplications per element of a tile, and products of few
	// columns as much as those of a whole panel.
	tr, tc := cv.tiles()
	tiles := tr * tc
	oh, ow := cv.OutSize()
	direct := 9 * cv.C * cv.M * oh * ow
	wide := ceilDiv(tiles, 16) * 16
	return 36*(cv.C*cv.M*wide+40*(cv.C+cv.M)*tiles) < direct/10*7
}

// tiles is the numbers of tiles down and across.
func (cv Conv2D) tiles() (rows, cols int) {
	oh, ow := cv.OutSize()
	return ceilDiv(oh, 4), ceilDiv(ow, 4)
}

// filter is G, by which weights are transformed on both sides.
var filter = [6][3]float64{{1. / 4}, {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6}, {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {2: 1}}

// filterOf is what element e of transformed weights takes of each of the nine.
func filterOf(e int) (g [9]float64) {
	for k := range g {
		g[k] = filter[e/6][k/3] * filter[e%6][k%3]
	}
	return g
}

// transform fills ww from w, M×C×3×3.
func (ww *winogradWeights) transform(m, c int, w []float32) {
	u := make([]float32, m*c)
	for e := range ww.u {
		g := filterOf(e)
		for i := range u {
			v := w[9*i:][:9]
			sum := 0.0
			for k, x := range v {
				sum += g[k] * float64(x)
			}
			u[i] = float32(sum)
		}
		ww.u[e] = PackA(false, m, c, u, c)
	}
}

// winogradSpace is a worker's memory.
type winogradSpace struct{ frame, v, m []float32 }

var winogradSpaces = sync.Pool{New: func() any { return new(winogradSpace) }}

// convWinograd computes image n of Y, its residual included.
func convWinograd(p *Pool, cv Conv2D, y, x []float32, ww *winogradWeights, ep *Epilogue, n int) {
	tr, tc := cv.tiles()
	// Blocks of rows of tiles whose transforms stay in the cache.
	rows := max(1, min(128, max(32, 8192/(cv.C+cv.M)))/tc)
	blocks := max(ceilDiv(tr, rows), min(tr, p.Threads()))
	rows = ceilDiv(tr, blocks)
	blocks = ceilDiv(tr, rows)
	w := winogradRows{cv: cv, y: y, x: x, ww: ww, rows: rows, n: n}
	if ep != nil {
		w.ep = *ep
	}
	InParts(p, blocks, 1, w)
}

// winogradRows is the work of [convWinograd]: so many rows of tiles at a time.
type winogradRows struct {
	cv      Conv2D
	y, x    []float32
	ww      *winogradWeights
	ep      Epilogue
	rows, n int
}

// Part computes the blocks [lo, hi) of rows.
func (w winogradRows) Part(lo, hi int) {
	cv, y, n := w.cv, w.y, w.n
	oh, ow := cv.OutSize()
	tr, tc := cv.tiles()
	pix, width := oh*ow, 4*tc+2
	ws := winogradSpaces.Get().(*winogradSpace)
	defer winogradSpaces.Put(ws)
	for b := lo; b < hi; b++ {
		first, last := b*w.rows, min((b+1)*w.rows, tr)
		tiles := (last - first) * tc
		strideV, strideM := cv.C*tiles, cv.M*tiles
		ws.v, ws.m, ws.frame = grow(ws.v, 36*strideV), grow(ws.m, 36*strideM), grow(ws.frame, (4*(last-first)+2)*width)
		part := cv
		part.PadTop -= 4 * first
		for c := range cv.C {
			fillBlockFrame(part, ws.frame, 0, 4*(last-first)+2, width, w.x[(n*cv.C+c)*cv.H*cv.W:][:cv.H*cv.W], 1)
			for t := range tiles {
				winogradInput(ws.v[c*tiles+t:], ws.frame[4*(t/tc)*width+4*(t%tc):], width, strideV)
			}
		}
		for e, u := range w.ww.u {
			GemmPackedA(nil, false, tiles, 1, u, ws.v[e*strideV:], tiles, 0, ws.m[e*strideM:], tiles, nil)
		}
		top, bottom := 4*first, min(4*last, oh)
		for m := range cv.M {
			off := (n*cv.M + m) * pix
			plane := y[off : off+pix]
			for t := range tiles {
				h, c := 4*(first+t/tc), 4*(t%tc)
				pixels := winogradOutput(ws.m[m*tiles+t:], strideM)
				for i := range min(4, oh-h) {
					copy(plane[(h+i)*ow+c:][:min(4, ow-c)], pixels[i][:])
				}
			}
			part := plane[top*ow : bottom*ow]
			if w.ep.RowBias != nil {
				AddScalar(part, part, w.ep.RowBias[m])
			}
			if w.ep.Residual != nil {
				Add(part, part, w.ep.Residual[off+top*ow:][:len(part)])
			}
			w.ep.activate(part)
		}
	}
}

// winogradInput transforms a tile: pixel (i, j) is src[i·row + j], element (i, j) of its transform dst[(6·i+j)·stride].
func winogradInput(dst, src []float32, row, stride int) {
	var rows [6][6]float32
	for i := range rows {
		rows[i] = winogradInputRow([6]float32(src[i*row:]))
	}
	for j := range 6 {
		for i, v := range winogradInputRow([6]float32{rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]}) {
			dst[(6*i+j)*stride] = v
		}
	}
}

// winogradOutput transforms a tile back, of which element (i, j) is src[(6·i+j)·stride].
func winogradOutput(src []float32, stride int) (pixels [4][4]float32) {
	var rows [6][4]float32
	for i := range rows {
		var m [6]float32
		for j := range m {
			m[j] = src[(6*i+j)*stride]
		}
		rows[i] = winogradOutputRow(m)
	}
	for j := range 4 {
		for i, v := range winogradOutputRow([6]float32{rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]}) {
			pixels[i][j] = v
		}
	}
	return pixels
}

// winogradInputRow is Bᵀ·d.
func winogradInputRow(d [6]float32) [6]float32 {
	return [6]float32{4*d[0] - 5*d[2] + d[4], d[3] + d[4] - 4*(d[1]+d[2]), 4*(d[1]-d[2]) + d[4] - d[3],
		2*(d[3]-d[1]) + d[4] - d[2], 2*(d[1]-d[3]) + d[4] - d[2], 4*d[1] - 5*d[3] + d[5]}
}

// winogradOutputRow is Aᵀ·m.
func winogradOutputRow(m [6]float32) [4]float32 {
	s12, d12, s34, d34 := m[1]+m[2], m[1]-m[2], m[3]+m[4], m[3]-m[4]
	return [4]float32{m[0] + s12 + s34, d12 + 2*d34, s12 + 4*s34, d12 + 8*d34 + m[5]}
}

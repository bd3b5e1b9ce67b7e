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

// transform fills ww from w, M×C×3×3.
func (ww *winogradWeights) transform(m, c int, w []float32) {
	u := make([]float32, m*c)
	for e := range ww.u {
		var g [9]float64 // of element e alone
		for k := range g {
			g[k] = filter[e/6][k/3] * filter[e%6][k%3]
		}
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
type winogradSpace struct {
	frame, v, m, pixels, scratch []float32
	pairs                        [2 * 128]float32
}

var winogradSpaces sync.Pool

// convWinograd computes image n of Y, its residual included.
func convWinograd(p *Pool, cv Conv2D, y, x []float32, ww *winogradWeights, ep *Epilogue, n int) {
	oh, ow := cv.OutSize()
	tr, tc := cv.tiles()
	// Blocks of rows of tiles whose transforms stay in the cache.
	rows := max(1, min(128, max(32, 8192/(cv.C+cv.M)))/tc)
	blocks := max(ceilDiv(tr, rows), min(tr, p.Threads()))
	rows = ceilDiv(tr, blocks)
	blocks = ceilDiv(tr, rows)
	lanes := active.lanes()
	pix := oh * ow
	p.For(blocks, 1, func(lo, hi int) {
		ws, _ := winogradSpaces.Get().(*winogradSpace)
		if ws == nil {
			ws = new(winogradSpace)
		}
		defer winogradSpaces.Put(ws)
		for b := lo; b < hi; b++ {
			first, last := b*rows, min((b+1)*rows, tr)
			tiles := (last - first) * tc
			// A register of tiles may spill over the end of its row: into what is written later, or into slack.
			strideV, strideM := cv.C*tiles+lanes, cv.M*tiles+lanes
			ws.v, ws.m = grow(ws.v, 36*strideV), grow(ws.m, 36*strideM)
			ws.pixels, ws.scratch = grow(ws.pixels, 16*lanes), grow(ws.scratch, 36*lanes)
			phase := tc + 1
			height := 4*(last-first) + 2
			ws.frame = grow(ws.frame, height*4*phase+lanes+4)
			for c := range cv.C {
				fillTiles(cv, ws.pairs[:], ws.frame, x[(n*cv.C+c)*cv.H*cv.W:][:cv.H*cv.W], 4*first, height, phase)
				for r := range last - first {
					for t := 0; t < tc; t += lanes {
						winogradInput(ws.v[c*tiles+r*tc+t:], ws.frame[4*r*4*phase+t:], ws.scratch, 4*phase, phase, strideV)
					}
				}
			}
			for e, u := range ww.u {
				GemmPackedA(nil, false, tiles, 1, u, ws.v[e*strideV:], tiles, 0, ws.m[e*strideM:], tiles, nil)
			}
			top, bottom := 4*first, min(4*last, oh)
			for m := range cv.M {
				off := (n*cv.M + m) * pix
				plane := y[off : off+pix]
				for r := range last - first {
					for t := 0; t < tc; t += lanes {
						winogradOutput(ws.pixels, ws.m[m*tiles+r*tc+t:], ws.scratch, strideM, 4*lanes)
						width := min(4*lanes, ow-4*t)
						for i := range min(4, oh-4*(first+r)) {
							copy(plane[(4*(first+r)+i)*ow+4*t:][:width], ws.pixels[i*4*lanes:])
						}
					}
				}
				if ep == nil {
					continue
				}
				part := plane[top*ow : bottom*ow]
				if ep.RowBias != nil {
					AddScalar(part, part, ep.RowBias[m])
				}
				if ep.Residual != nil {
					Add(part, part, ep.Residual[off+top*ow:][:len(part)])
				}
				ep.activate(part)
			}
		}
	})
}

// fillTiles copies height rows of the padded image from row top on into dst, with the columns of each row sorted by their remainder of 4.
func fillTiles(cv Conv2D, pairs, dst, x []float32, top, height, phase int) {
	width := 4 * phase
	clear(dst[:height*width])
	for r := range height {
		h := top + r - cv.PadTop
		if h < 0 || h >= cv.H {
			continue
		}
		row, src := dst[r*width:][:width], x[h*cv.W:][:cv.W]
		// The columns before the first whole group of four, the groups, and what is left.
		w := 0
		for ; w < len(src) && (w+cv.PadLeft)%4 != 0; w++ {
			if q := (w + cv.PadLeft) / 4; q < phase {
				row[(w+cv.PadLeft)%4*phase+q] = src[w]
			}
		}
		q := (w + cv.PadLeft) / 4
		if groups := min((len(src)-w)/4, phase-q); groups > 0 {
			deinterleave4(pairs, row[q:], phase, src[w:], groups)
			w, q = w+4*groups, q+groups
		}
		for i := 0; w+i < len(src) && i < 4 && q < phase; i++ {
			row[i*phase+q] = src[w+i]
		}
	}
}

// deinterleave4 sets dst[i·phase+k] = src[4·k+i] for k < n, i < 4. pairs is room for 256 numbers.
func deinterleave4(pairs, dst []float32, phase int, src []float32, n int) {
	k := 0
	if vector.deinterleave != nil && n >= 8 {
		// Twice by two: first to pairs of phases 0 and 2, and 1 and 3.
		for ; n-k >= 8; k += 64 {
			m := min(64, n-k) &^ 7
			vector.deinterleave(&pairs[0], &pairs[128], &src[4*k], 2*m)
			vector.deinterleave(&dst[k], &dst[2*phase+k], &pairs[0], m)
			vector.deinterleave(&dst[phase+k], &dst[3*phase+k], &pairs[128], m)
			if m < 64 {
				k += m
				break
			}
		}
	}
	for ; k < n; k++ {
		dst[k], dst[phase+k], dst[2*phase+k], dst[3*phase+k] = src[4*k], src[4*k+1], src[4*k+2], src[4*k+3]
	}
}

// winogradInput transforms a register of tiles: pixel (i, j) of tile t is src[i·row + (j mod 4)·phase + j/4 + t], element (i, j) of its
// transform dst[(6·i+j)·stride + t].
func winogradInput(dst, src, scratch []float32, row, phase, stride int) {
	if vector.winogradInput != nil {
		vector.winogradInput(&dst[0], &src[0], &scratch[0], 4*row, 4*phase, 4*stride)
		return
	}
	inputRow := func(d [6]float32) [6]float32 {
		return [6]float32{4*d[0] - 5*d[2] + d[4], d[3] + d[4] - 4*(d[1]+d[2]), 4*(d[1]-d[2]) + d[4] - d[3],
			2*(d[3]-d[1]) + d[4] - d[2], 2*(d[1]-d[3]) + d[4] - d[2], 4*d[1] - 5*d[3] + d[5]}
	}
	for t := range active.lanes() {
		var rows [6][6]float32
		for j := range 6 {
			var d [6]float32
			for i := range d {
				d[i] = src[i*row+j%4*phase+j/4+t]
			}
			for i, v := range inputRow(d) {
				rows[i][j] = v
			}
		}
		for i := range rows {
			for j, v := range inputRow(rows[i]) {
				dst[(6*i+j)*stride+t] = v
			}
		}
	}
}

// winogradOutput transforms a register of tiles back: element (i, j) of tile t is src[(6·i+j)·stride + t], and pixel (i, j)
// dst[i·ld + 4·t + j].
func winogradOutput(dst, src, scratch []float32, stride, ld int) {
	if vector.winogradOutput != nil {
		vector.winogradOutput(&dst[0], &src[0], &scratch[0], 4*stride, 4*ld)
		return
	}
	outputRow := func(m [6]float32) [4]float32 {
		s12, d12, s34, d34 := m[1]+m[2], m[1]-m[2], m[3]+m[4], m[3]-m[4]
		return [4]float32{m[0] + s12 + s34, d12 + 2*d34, s12 + 4*s34, d12 + 8*d34 + m[5]}
	}
	for t := range active.lanes() {
		var rows [6][4]float32
		for i := range rows {
			var m [6]float32
			for j := range m {
				m[j] = src[(6*i+j)*stride+t]
			}
			rows[i] = outputRow(m)
		}
		for j := range 4 {
			col := outputRow([6]float32{rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]})
			for i, v := range col {
				dst[i*ld+4*t+j] = v
			}
		}
	}
}

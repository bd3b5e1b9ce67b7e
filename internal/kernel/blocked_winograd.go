package kernel

// blockWinograd reports whether tiles are the quicker way for cv in blocks.
func (cv Conv2D) blockWinograd() bool {
	if cv.KH != 3 || cv.KW != 3 || cv.StrideH != 1 || cv.StrideW != 1 || cv.DilH != 1 || cv.DilW != 1 || cv.Group != 1 || cv.C < 16 || cv.M < 16 {
		return false
	}
	// A transform costs as much as some 120 multiplications per element of a channel, and with few tiles the
	// transformed weights, four times as many, take longer to come than to multiply.
	tr, tc := cv.tiles()
	tiles := tr * tc
	oh, ow := cv.OutSize()
	return 36*cv.C*cv.M*max(tiles, 64)+120*36/9*(cv.C+cv.M)*tiles < 9*cv.C*cv.M*oh*ow/10*9
}

// winogradBytes is how much memory the transforms of the tiles under way may take.
const winogradBytes = 1 << 20

// sharedWeights is up to how many bytes of weights each thread reads them all, for tiles of its own.
const sharedWeights = 4 << 20

// blockWinograd computes one image by F(4×4, 3×3), see [convWinograd].
func blockWinograd(p *Pool, cv Conv2D, y, x []float32, w *BlockWeights, ep Epilogue) {
	b := w.lanes
	tr, tc := cv.tiles()
	ins, outs := ceilDiv(cv.C, b), len(w.bias)/b
	u := w.winograd()
	height, width := 4*tr+2, 4*tc+2
	space := blockSpaces.Get().(*blockSpace)
	defer blockSpaces.Put(space)
	space.frame = grow(space.frame, ins*height*width*b)
	frame := space.frame
	fillBlockFrames(p, cv, frame, height, width, x, b, ins)
	// Rows of tiles are taken together as far as the memory goes.
	rows := min(tr, max(1, winogradBytes/(4*36*b*(ins+outs)*tc)))
	rows = ceilDiv(tr, ceilDiv(tr, rows))
	wp := winogradPart{cv: cv, y: y, w: w, u: u, ep: ep, frame: frame, ins: ins, outs: outs, rows: rows}
	// Where there are tiles enough for every thread, and weights are few, a thread takes its own through all three phases: what one phase
	// leaves is then in its cache for the next.
	if threads := p.Threads(); threads > 1 && tr*tc >= 32*threads && 4*36*ins*outs*b*b <= sharedWeights {
		wp.rows = min(rows, ceilDiv(tr, 2*threads))
		p.For(ceilDiv(tr, wp.rows), 1, wp.Part)
		return
	}
	wp.pool, wp.space = p, space
	wp.Part(0, ceilDiv(tr, rows))
}

// winogradPart is an image's tiles in stretches of rows.
type winogradPart struct {
	pool            *Pool
	space           *blockSpace // nil: each call takes its own
	cv              Conv2D
	y, frame        []float32
	w               *BlockWeights
	u               [][]float32
	ep              Epilogue
	ins, outs, rows int
}

// Part computes the stretches [lo, hi).
func (wp winogradPart) Part(lo, hi int) {
	b, ins, outs, rows := wp.w.lanes, wp.ins, wp.outs, wp.rows
	tr, tc := wp.cv.tiles()
	if wp.space == nil {
		wp.space = blockSpaces.Get().(*blockSpace)
		defer blockSpaces.Put(wp.space)
	}
	p, space := wp.pool, wp.space
	s := winogradStretch{winogradPart: wp}
	for s.first = lo * rows; s.first < min(tr, hi*rows); s.first += rows {
		s.tiles = min(rows, tr-s.first) * tc
		space.v, space.m = grow(space.v, 36*ins*s.tiles*b), grow(space.m, 36*outs*s.tiles*b)
		InParts(p, ins, max(1, 64/s.tiles), winogradInputs(s))
		InParts(p, 36, 1, winogradProducts(s))
		InParts(p, outs, max(1, 64/s.tiles), winogradOutputs(s))
	}
}

// winogradStretch is the tiles of some rows from first on; the three phases of the work on them are types of their own.
type winogradStretch struct {
	winogradPart
	first, tiles int
}

type (
	winogradInputs   winogradStretch
	winogradProducts winogradStretch
	winogradOutputs  winogradStretch
)

// Part transforms the tiles of the blocks [lo, hi) of channels.
func (s winogradInputs) Part(lo, hi int) {
	b := s.w.lanes
	tr, tc := s.cv.tiles()
	height, width := 4*tr+2, 4*tc+2
	ws := blockSpaces.Get().(*blockSpace)
	defer blockSpaces.Put(ws)
	for q := lo; q < hi; q++ {
		for t := range s.tiles {
			at := (q*height+4*(s.first+t/tc))*width + 4*(t%tc)
			blockActive.winogradInput(&s.space.v[(q*s.tiles+t)*b], &s.frame[at*b], &ws.scratch[0], 4*width*b, 4*s.ins*s.tiles*b)
		}
	}
}

// Part multiplies the elements [lo, hi) of the transforms by those of the weights.
func (s winogradProducts) Part(lo, hi int) {
	b := s.w.lanes
	planeV, planeM := s.ins*s.tiles*b, s.outs*s.tiles*b
	for e := lo; e < hi; e++ {
		bp := blockProducts{b: b, y: s.space.m[e*planeM:][:planeM], x: s.space.v[e*planeV:][:planeV], weights: s.u[e], bias: s.w.zero, oh: 1, ow: s.tiles,
			pixel: 4 * b, units: s.ins, plane: s.tiles * b, taps: 1, per: s.cv.C, chans: b, tapsAcross: 1, groups: 1, outs: s.outs}
		bp.run(nil)
	}
}

// Part transforms the tiles of the blocks [lo, hi) of outputs back.
func (s winogradOutputs) Part(lo, hi int) {
	b, ep, y := s.w.lanes, s.ep, s.y
	oh, ow := s.cv.OutSize()
	_, tc := s.cv.tiles()
	clamped := ep.clamped()
	ws := blockSpaces.Get().(*blockSpace)
	defer blockSpaces.Put(ws)
	t := &ws.tile
	for q := lo; q < hi; q++ {
		*t = blockTile{bias: &s.w.bias[q*b], srcStride: 4 * s.outs * s.tiles * b, scratch: &ws.scratch[0]}
		for k := range s.tiles {
			h, c := 4*(s.first+k/tc), 4*(k%tc)
			off := ((q*oh+h)*ow + c) * b
			t.src = &s.space.m[(q*s.tiles+k)*b]
			if h+4 <= oh && c+4 <= ow {
				t.dst, t.pixel = &y[off], 4*ow*b
				t.ending(&ep, off)
				blockActive.winogradOutput(t)
				continue
			}
			// A tile over the edge goes by way of memory of its own.
			t.dst, t.pixel, t.residual, t.clamp = &ws.edge[0], 16*b, nil, 0
			blockActive.winogradOutput(t)
			n := min(4, ow-c) * b
			for r := range min(4, oh-h) {
				part, to := ws.edge[4*r*b:][:n], off+r*ow*b
				if ep.Residual != nil {
					Add(part, part, ep.Residual[to:][:n])
				}
				if clamped {
					ep.activate(part)
				}
				copy(y[to:], part)
			}
		}
		if !clamped {
			top, bottom := (q*oh+4*s.first)*ow*b, (q*oh+min(oh, 4*(s.first+s.tiles/tc)))*ow*b
			ep.activate(y[top:bottom])
		}
	}
}

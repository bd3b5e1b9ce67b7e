package kernel

import "unsafe"

// ToBlocks sets y to x, N×C×pix, in blocks. Lanes past C are 0.
func ToBlocks(p *Pool, y, x []float32, n, c, pix int) {
	turns{y: y, x: x, channels: c, pix: pix, in: true}.run(p, n)
}

// FromBlocks sets y, N×C×pix, to x, which is in blocks.
func FromBlocks(p *Pool, y, x []float32, n, c, pix int) {
	turns{y: y, x: x, channels: c, pix: pix}.run(p, n)
}

// turns is images that go into blocks or come out of them.
type turns struct {
	y, x          []float32
	channels, pix int
	in            bool

	band, bands int  // pixels in a part of an image, and parts
	byRows      bool // parts come one after the other, else blocks
}

func (t turns) run(p *Pool, n int) {
	b := blockLanes()
	blocks := ceilDiv(t.channels, b)
	t.band, t.bands = max(1, t.pix), 1
	if t.byRows = p.Threads() > 1 && n == 1 && blockByRows(t.pix, blocks*b); t.byRows {
		t.band = ceilDiv(ceilDiv(t.pix, chunksPerThread*p.Threads()), b) * b
		t.bands = ceilDiv(t.pix, t.band)
	}
	InParts(p, n*blocks*t.bands, blockGrain(4*t.band), t)
}

// Part computes the items [lo, hi).
func (t turns) Part(lo, hi int) {
	b, c, pix := blockLanes(), t.channels, t.pix
	blocks := ceilDiv(c, b)
	for item := lo; item < hi; item++ {
		q, from := item, 0
		if t.byRows {
			q, from = item%blocks, item/blocks*t.band
		}
		size := min(t.band, pix-from)
		first := q % blocks * b
		chans := min(b, c-first)
		plain, at := (q/blocks*c+first)*pix+from, (q*pix+from)*b
		if !t.in {
			turn(t.y[plain:], pix, t.x[at:][:size*b], b, size, chans)
			continue
		}
		if chans < b {
			clear(t.y[at:][:size*b])
		}
		turn(t.y[at:][:size*b], b, t.x[plain:], pix, chans, size)
	}
}

// turn sets dst[j·stride+i] = src[i·ld+j] for i < m, j < n.
func turn(dst []float32, stride int, src []float32, ld, m, n int) {
	whole := m &^ 3
	if !Transpose(bits32(dst), stride, bits32(src), ld, whole, n) {
		whole = 0
	}
	for i := whole; i < m; i++ {
		for j, v := range src[i*ld:][:n] {
			dst[j*stride+i] = v
		}
	}
}

func bits32(x []float32) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

// BlockedScale sets y to x·scale + bias and applies ep's activation, in blocks: there are that many of them, each of pixels, and scale and bias
// hold a register for each, or for as many as they go before they begin again; nil stands for ones and zeros.
func BlockedScale(p *Pool, y, x, scale, bias []float32, blocks, pixels int, ep *Epilogue) {
	if blocks*pixels == 0 {
		return
	}
	if ep == nil {
		ep = &Epilogue{}
	}
	s := blockScales{y: y, x: x, scale: scale, bias: bias, pixels: pixels, ep: *ep}
	InParts(p, blocks, blockGrain(4*pixels), s)
}

// blockScales is the work of [BlockedScale].
type blockScales struct {
	y, x, scale, bias []float32
	pixels            int
	ep                Epilogue
}

// Part computes the blocks [lo, hi).
func (s blockScales) Part(lo, hi int) {
	b := blockLanes()
	tiles := blockActive.depthwise
	across := ceilDiv(s.pixels, len(tiles)-1)
	clamped := s.ep.clamped()
	ws := blockSpaces.Get().(*blockSpace)
	defer blockSpaces.Put(ws)
	ws.taps = append(ws.taps[:0], blockTap{})
	ws.weights = grow(ws.weights, 2*b) // ones and zeros
	for i := range b {
		ws.weights[i], ws.weights[b+i] = 1, 0
	}
	t := &ws.tile
	for q := lo; q < hi; q++ {
		*t = blockTile{taps: &ws.taps[0], n: 1, pixel: 4 * b, weights: &ws.weights[0], bias: &ws.weights[b]}
		if s.scale != nil {
			t.weights = &s.scale[q*b%len(s.scale)]
		}
		if s.bias != nil {
			t.bias = &s.bias[q*b%len(s.bias)]
		}
		t.ending(&s.ep, 0)
		for i := range across {
			at, n := share(s.pixels, i, across)
			t.srcAt, t.dstAt = 0, 0
			t.src, t.dst = &s.x[(q*s.pixels+at)*b], &s.y[(q*s.pixels+at)*b]
			tiles[n](t)
		}
		if !clamped {
			s.ep.activate(s.y[q*s.pixels*b:][:s.pixels*b])
		}
	}
}

// BlockedAveragePool computes means over windows, of which cv gives the geometry (C = M, Group 1), in blocks; padding counts as zeros.
func BlockedAveragePool(p *Pool, cv Conv2D, y, x []float32) {
	cv = cv.norm()
	b := blockLanes()
	space := blockSpaces.Get().(*blockSpace)
	defer blockSpaces.Put(space)
	space.weights = grow(space.weights, (cv.KH*cv.KW+1)*b)
	zero, weights := space.weights[:b], space.weights[b:]
	clear(zero)
	for i := range weights {
		weights[i] = 1 / float32(cv.KH*cv.KW)
	}
	blockPooled(p, cv, y, x, blockPlanes{tiles: blockActive.depthwise, weights: weights, bias: zero})
}

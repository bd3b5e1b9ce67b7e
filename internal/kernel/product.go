package kernel

import (
	"sync"
	"unsafe"
)

// How a product is made. C is cut into blocks, which are what the pool's workers
// take. Within a block, k goes in steps of at most depth, and the panels of A in it stay in the
// second-level cache while one panel of B after the other passes by them. Tiles fetch the next panel
// of B meanwhile; those that read rows of A where they lie also fetch the next rows.
//
// B that is not packed yet is packed by the worker that needs it, a few panels at a time, so it passes
// through the cache once. A that cannot be read where it lies is packed first, as a whole, by all
// workers; or, if B is the smaller, that is, and A by block.

const (
	depth = 768
	// sourceDepth is that of a B which is made as it is wanted, by as many panels as a block has.
	sourceDepth = 384
	blockA      = 432 << 10 // bytes of A in a block, about
	blockRows   = 288       // of C in one, at most
	blockCols   = 256       // and columns
	fewRows     = 16 << 10  // bytes of A that need no steps
	groupB      = 128 << 10 // bytes of B that are packed before they are used
	line        = 64        // bytes of a line of the caches
	// cacheWay is the bytes of a way of the first-level cache: addresses so far apart compete for the same few lines.
	cacheWay = 4 << 10
	// serialWork is the number of multiplications below which waking another
	// worker costs more than it saves.
	serialWork = 1 << 18
)

// RowStride is how far apart rows of n elements lie best that are read side by side: not so that they compete for cache lines.
func RowStride(n int) int {
	if n%(cacheWay/8) == 0 {
		return n + 16
	}
	return n
}

// A product is one call of a GEMM function. Products are recycled with their
// buffers.
type product[T Float] struct {
	kern        *gemmKernel[T]
	m, n, k     int
	alpha, beta T
	a, b        side[T]
	panelsB     panelSource[T] // in place of b, or nil
	packedA     []T            // in place of a, or nil
	packedB     []T            // in place of b, or nil
	deepB       int            // of its panels
	c           []T
	ldc         int
	ep          *EpilogueOf[T] // nil or &ending
	ending      EpilogueOf[T]

	depth                int  // of a step
	direct               bool // B is read where it is
	inRows               bool // and A
	back                 bool // blocks and panels of B from the last to the first
	panelsM, panelsN     int  // panels in all
	stepM                int  // panels of A that stay in the cache
	blocksM, blocksN     int  // rows and columns of blocks
	bufA, bufB           []T  // of whole operands
	packABody, packBBody func(lo, hi int)
	blocksBody           func(lo, hi int)
	dotRowsBody          func(lo, hi int)
	dotColsBody          func(lo, hi int)
}

// A panelSource makes panels of B that are not stored as a matrix.
type panelSource[T Float] interface {
	// packPanel sets dst[p·stride+j] = B[p0+p, j0+j] for p < n, j < width ≤ stride.
	// It may write rubbish for j ≥ width, and up to panelSlack past the end.
	packPanel(dst []T, j0, width, stride, p0, n int)
}

// panelSlack is how far beyond its panel a panelSource may write.
const panelSlack = 16

// A workspace is the buffers of one worker.
type workspace[T Float] struct {
	a, b []T
	edge []T // a whole tile
	t    tile[T]
	i    itile

	chunks []chunk
}

// recycled holds products and workspaces at one width.
type recycled struct{ products, workspaces sync.Pool }

var recycled32, recycled64 recycled

func recycledOf[T Float]() *recycled {
	if is32[T]() {
		return &recycled32
	}
	return &recycled64
}

func newProduct[T Float](kern *gemmKernel[T], m, n, k int, alpha, beta T, c []T, ldc int, ep *EpilogueOf[T]) *product[T] {
	checkMatrix("C", m, n, c, ldc)
	ep.check(m, n)
	pr, _ := recycledOf[T]().products.Get().(*product[T])
	if pr == nil {
		pr = new(product[T])
		pr.packABody, pr.packBBody, pr.blocksBody = pr.packA, pr.packB, pr.blocks
		pr.dotRowsBody, pr.dotColsBody = pr.dotRows, pr.dotCols
	}
	pr.kern, pr.m, pr.n, pr.k, pr.alpha, pr.beta = kern, m, n, k, alpha, beta
	pr.c, pr.ldc = c, ldc
	if ep != nil {
		pr.ending = *ep
		pr.ep = &pr.ending
	}
	return pr
}

// run makes the product and recycles pr.
func (pr *product[T]) run(p *Pool) {
	if pr.m > 0 && pr.n > 0 {
		pr.plan(p)
	}
	pr.a, pr.b, pr.panelsB, pr.packedA, pr.packedB, pr.c, pr.ep = side[T]{}, side[T]{}, nil, nil, nil, nil, nil
	pr.direct, pr.inRows, pr.back, pr.ending = false, false, false, EpilogueOf[T]{}
	recycledOf[T]().products.Put(pr)
}

func (pr *product[T]) plan(p *Pool) {
	if pr.m*pr.n*pr.k < serialWork {
		p = nil
	}
	if pr.narrow() {
		pr.dots(p)
		return
	}
	kern, threads := pr.kern, p.Threads()
	pr.panelsM, pr.panelsN = ceilDiv(pr.m, kern.rows), ceilDiv(pr.n, kern.cols)
	size := int(unsafe.Sizeof(T(0)))
	pr.depth = max(pr.k, 1)
	deep := depth
	if pr.panelsB != nil {
		deep = sourceDepth
	}
	// Few rows of A stay in the first-level cache, and B, which is read once, comes best from end to end.
	if steps := ceilDiv(pr.k, deep); steps > 1 && pr.m*pr.k*size > fewRows {
		pr.depth = ceilDiv(ceilDiv(pr.k, steps), 4) * 4
	}
	pr.stepM = max(1, min(blockRows, blockA/(pr.depth*size))/kern.rows)
	pr.stepM = ceilDiv(pr.panelsM, ceilDiv(pr.panelsM, pr.stepM))
	blockN, sizeB := max(1, blockCols/kern.cols), pr.panelsN*kern.cols*size // sizeB for each step of k

	storedB := pr.packedB == nil && pr.panelsB == nil
	pr.direct = storedB && pr.b.across && pr.panelsM == 1 && pr.k > 0
	// Rows of A are read where they lie, unless that is so that the first-level cache cannot hold a panel of them.
	pr.inRows = kern.rowsTile != nil && pr.packedA == nil && !pr.a.across && pr.k > 0 && (pr.m < kern.rows || pr.a.ld*size%cacheWay != 0)
	// A product that is one block packs both operands step by step.
	one := threads == 1 && !pr.inRows && pr.panelsM <= pr.stepM && sizeB*pr.depth <= 2*groupB
	switch {
	case one || pr.packedA != nil || pr.packedB != nil:
	case pr.inRows:
		if storedB && !pr.direct && sizeB*pr.k <= 2*groupB {
			pr.packWholeB(p)
		}
	case pr.direct || pr.panelsB != nil || pr.m <= pr.n:
		pr.packWholeA(p)
	default:
		pr.packWholeB(p)
	}
	// Blocks span all of the operand that is packed before, unless that leaves workers idle.
	pr.blocksM, pr.blocksN = ceilDiv(pr.panelsM, pr.stepM), ceilDiv(pr.panelsN, blockN)
	switch {
	case one:
		pr.blocksM, pr.blocksN = 1, 1
	case pr.packedB == nil && !pr.direct && pr.panelsN >= threads:
		pr.blocksM = 1
		if pr.panelsB == nil {
			pr.blocksN = ceilDiv(pr.panelsN, max(1, min(blockN, groupB/(kern.cols*pr.depth*size))))
		}
	case pr.packedB == nil && !pr.direct:
		pr.packWholeB(p)
	case pr.packedA == nil && !pr.inRows && pr.panelsM >= threads:
		pr.blocksN = 1
	case pr.packedA == nil && !pr.inRows:
		pr.packWholeA(p)
	}
	pr.share(threads)
	p.For(pr.blocksM*pr.blocksN, 1, pr.blocksBody)
}

// share cuts blocks smaller until there are enough of them, and about as many for each of the threads.
func (pr *product[T]) share(threads int) {
	if threads == 1 {
		return
	}
	// What is packed by block is packed once only.
	onlyN, onlyM := pr.packedB == nil && !pr.direct, pr.packedA == nil && !pr.inRows
	for blocks := pr.blocksM * pr.blocksN; blocks < 2*threads || blocks < 8*threads && blocks%threads != 0; blocks = pr.blocksM * pr.blocksN {
		moreM, moreN := !onlyN && pr.blocksM < pr.panelsM, !onlyM && pr.blocksN < pr.panelsN
		if moreM && (!moreN || pr.m*pr.blocksN >= pr.n*pr.blocksM) {
			pr.blocksM++
		} else if moreN {
			pr.blocksN++
		} else {
			return
		}
	}
}

func (pr *product[T]) packWholeA(p *Pool) {
	pr.bufA = grow(pr.bufA, pr.m*pr.k)
	pr.packedA = pr.bufA
	p.For(pr.panelsM, 4, pr.packABody)
}

func (pr *product[T]) packWholeB(p *Pool) {
	pr.bufB = grow(pr.bufB, pr.panelsN*pr.kern.cols*pr.k+panelSlack)
	pr.packedB, pr.deepB = pr.bufB, pr.k
	p.For(pr.panelsN, 2, pr.packBBody)
}

func (pr *product[T]) packA(lo, hi int) {
	pr.kern.packAll(pr.packedA, pr.a, cut{pr.m, pr.kern.rows, false}, pr.k, pr.k, lo, hi)
}

func (pr *product[T]) packB(lo, hi int) {
	if pr.panelsB == nil {
		pr.kern.packAll(pr.packedB, pr.b, cut{pr.n, pr.kern.cols, true}, pr.k, pr.k, lo, hi)
		return
	}
	// Panels of others may spill over their end, so each goes by way of a buffer.
	ws := getWorkspace[T]()
	cols := pr.kern.cols
	ws.b = grow(ws.b, cols*pr.k+panelSlack)
	for q := lo; q < hi; q++ {
		pr.panelsB.packPanel(ws.b, q*cols, min(cols, pr.n-q*cols), cols, 0, pr.k)
		copy(pr.packedB[q*cols*pr.k:][:cols*pr.k], ws.b)
	}
	ws.put()
}

func grow[T any](buf []T, n int) []T {
	if cap(buf) < n {
		return make([]T, n)
	}
	return buf[:n]
}

func getWorkspace[T Float]() *workspace[T] {
	ws, _ := recycledOf[T]().workspaces.Get().(*workspace[T])
	if ws == nil {
		ws = new(workspace[T])
	}
	return ws
}

func (ws *workspace[T]) put() {
	ws.t, ws.i = tile[T]{}, itile{}
	recycledOf[T]().workspaces.Put(ws)
}

// blocks makes blocks [lo, hi) of C.
func (pr *product[T]) blocks(lo, hi int) {
	ws := getWorkspace[T]()
	for q := lo; q < hi; q++ {
		j := q % pr.blocksN
		if pr.back {
			j = pr.blocksN - 1 - j
		}
		i := q / pr.blocksN
		pr.block(ws, i*pr.panelsM/pr.blocksM, (i+1)*pr.panelsM/pr.blocksM, j*pr.panelsN/pr.blocksN, (j+1)*pr.panelsN/pr.blocksN)
	}
	ws.put()
}

// block makes the panels of rows [i0, i1) and columns [j0, j1) of C.
func (pr *product[T]) block(ws *workspace[T], i0, i1, j0, j1 int) {
	kern := pr.kern
	rows, cols := kern.rows, kern.cols
	size := int(unsafe.Sizeof(T(0)))
	stepN := max(1, blockCols/cols)
	for p0 := 0; p0 < max(pr.k, 1); p0 += pr.depth {
		n := min(pr.depth, pr.k-p0)
		a := panels[T]{pr.packedA, pr.k, p0}
		if pr.packedA == nil && !pr.inRows {
			ws.a = grow(ws.a, (i1-i0)*rows*n)
			kern.packPanels(ws.a, pr.a, cut{pr.m, rows, false}, i0, i1, p0, n, n, 0)
			a = panels[T]{ws.a, n, 0}
		}
		b := panels[T]{pr.packedB, pr.deepB, p0}
		if pr.packedB == nil && !pr.direct {
			ws.b = grow(ws.b, (j1-j0)*cols*n+panelSlack)
			if pr.panelsB == nil {
				kern.packPanels(ws.b, pr.b, cut{pr.n, cols, true}, j0, j1, p0, n, n, 0)
			} else {
				for q := j0; q < j1; q++ {
					pr.panelsB.packPanel(ws.b[(q-j0)*cols*n:], q*cols, min(cols, pr.n-q*cols), cols, p0, n)
				}
			}
			b = panels[T]{ws.b, n, 0}
		}
		t := &ws.t
		t.k, t.alpha, t.beta = n, pr.alpha, pr.beta
		if p0 > 0 {
			t.beta = 1
		}
		if t.beta == 0 {
			t.beta = 0 // not -0
		}
		last := p0+n >= pr.k
		for ib := i0; ib < i1; ib += pr.stepM {
			for jb := j0; jb < j1; jb += stepN {
				ie, je := min(ib+pr.stepM, i1), min(jb+stepN, j1)
				for jj := jb; jj < je; {
					j, across := jj, min(je, pr.n/cols)-jj // and the whole panels from there on
					if pr.back {
						j = je - 1 - (jj - jb)
						across = j + 1 - jb
					}
					t.cols = min(cols, pr.n-j*cols)
					if ie-ib > 1 || t.cols < cols {
						across = 1
					}
					t.ldb, t.on.b = cols*size, cols*n*size
					switch {
					case pr.packedB != nil:
						t.b, t.on.b = b.at(j*cols, cols), cols*pr.deepB*size
					case !pr.direct:
						t.b = b.at((j-j0)*cols, cols)
					case t.cols == cols:
						t.b, t.ldb, t.on.b = &pr.b.data[p0*pr.b.ld+j*cols], pr.b.ld*size, cols*size
					default:
						ws.b = grow(ws.b, cols*n)
						kern.packPanel(ws.b, pr.b, j*cols, t.cols, cols, p0, n)
						t.b = unsafe.SliceData(ws.b)
					}
					panelB := t.b
					var next ahead
					if across == 1 && ib == i0 {
						next = pr.ahead(j, j0, j1, p0, n, ie-ib)
					}
					for i := ib; i < ie; {
						r, down := min(rows, pr.m-i*rows), 1
						if across == 1 && (t.cols == cols || kern.masked) {
							down = max(1, min(ie, pr.m/rows)-i)
						}
						t.ahead, t.aheadBy = uintptr(unsafe.Pointer(panelB)), 0
						if done := i - ib; done < next.tiles {
							t.ahead, t.aheadBy, down = next.from+uintptr(done*(n/4)*next.by), next.by, min(down, next.tiles-done)
						}
						t.b, t.on.a = panelB, rows*n*size
						switch {
						case pr.inRows:
							t.a, t.lda, t.on.a = at(unsafe.SliceData(pr.a.data), i*rows*pr.a.ld+p0), pr.a.ld*size, rows*pr.a.ld*size
						case pr.packedA != nil:
							t.a, t.on.a = a.at(i*rows, r), rows*pr.k*size
						default:
							t.a = a.at((i-i0)*rows, r)
						}
						pr.tiles(ws, i*rows, r, j*cols, down, across, last)
						i += down
					}
					jj += across
				}
				if last && pr.ep != nil && pr.ep.Act != ActNone {
					pr.activate(ib*rows, min(ie*rows, pr.m), jb*cols, min(je*cols, pr.n))
				}
			}
		}
	}
}

// An ahead is what tiles of one panel of B fetch for the next.
type ahead struct {
	from  uintptr
	by    int // bytes on in four steps of k
	tiles int // until it is all fetched
}

// ahead is what the tiles, so many, of panel j of B fetch in a step of the block of panels [j0, j1) that begins at p0 and is n deep.
func (pr *product[T]) ahead(j, j0, j1, p0, n, tiles int) ahead {
	cols, size, last := pr.kern.cols, int(unsafe.Sizeof(T(0))), p0+n >= pr.k
	switch {
	case pr.packedB != nil:
		// A tile comes by so many lines, and fetches at most two of them in four steps.
		a := ahead{by: min(2*line, ceilDiv(4*cols*size, tiles)), tiles: tiles}
		q, p := j+1, p0
		if pr.back {
			q = j - 1
		} else if q == j1 && !last {
			q, p = j0, p0+n
		} else if q == j1 {
			p = 0
		}
		if q < 0 || q == pr.panelsN {
			return ahead{}
		}
		a.from = uintptr(unsafe.Pointer(panels[T]{pr.packedB, pr.k, p}.at(q*cols, cols)))
		return a
	case !pr.direct && pr.panelsB == nil && pr.b.across:
		// What will be packed: the same panel of the next step, or of the next block, by one row in four steps.
		q, p := j, p0+n
		if last {
			q, p = j+j1-j0, 0
		}
		if q < pr.n/cols {
			return ahead{uintptr(unsafe.Pointer(&pr.b.data[p*pr.b.ld+q*cols])), pr.b.ld * size, 4}
		}
	}
	return ahead{}
}

// panels is a run of packed panels, k deep, of which a step begins at p0.
type panels[T Float] struct {
	data  []T
	k, p0 int
}

// at returns the step in the panel that begins at row or column i and is width wide.
func (ps panels[T]) at(i, width int) *T {
	return at(unsafe.SliceData(ps.data), i*ps.k+ps.p0*width)
}

// tiles makes the tile at row i, column j of C, with r rows, and those of as many below it, or beside it, as down and across say, one of
// which is 1; a, b, k, cols, the ways on from there and the factors are set.
func (pr *product[T]) tiles(ws *workspace[T], i, r, j, down, across int, last bool) {
	t, size := &ws.t, int(unsafe.Sizeof(T(0)))
	cols := t.cols
	c := pr.c[i*pr.ldc+j:]
	t.c, t.ldc = &c[0], pr.ldc*size
	t.rowBias, t.colBias, t.resid, t.clamp = nil, nil, nil, 0
	if ep := pr.ep; ep != nil && last {
		if ep.RowBias != nil {
			t.rowBias = &ep.RowBias[i]
		}
		if ep.ColBias != nil {
			t.colBias = &ep.ColBias[j]
		}
		if ep.Residual != nil {
			t.resid, t.ldr = &ep.Residual[i*ep.ResidualLD+j], ep.ResidualLD*size
		}
		if lo, hi, ok := ep.clampOf(); ok {
			t.lo, t.hi, t.clamp = lo, hi, 1
		}
	}
	t.count = down * across
	if across > 1 {
		if pr.back {
			size = -size
			t.on.b = -t.on.b
		}
		t.on.a, t.on.c = 0, cols*size
		t.on.rowBias, t.on.colBias, t.on.resid = 0, cols*size, cols*size
	} else {
		t.on.b, t.on.c = 0, r*t.ldc
		t.on.rowBias, t.on.colBias, t.on.resid = r*size, 0, r*t.ldr
	}
	if t.rowBias == nil {
		t.on.rowBias = 0
	}
	if t.colBias == nil {
		t.on.colBias = 0
	}
	if t.resid == nil {
		t.on.resid = 0
	}
	run := pr.kern.tile[r]
	if pr.inRows {
		run = pr.kern.rowsTile[r]
	}
	if cols == pr.kern.cols || pr.kern.masked {
		run(t)
		return
	}

	// The kernel writes whole tiles only: make one aside.
	full := pr.kern.cols
	ws.edge = grow(ws.edge, (2*r+1)*full)
	edge, resid, bias := ws.edge[:r*full], ws.edge[r*full:2*r*full], ws.edge[2*r*full:]
	if t.colBias != nil {
		copy(bias, pr.ep.ColBias[j:j+cols])
		t.colBias = &bias[0]
	}
	for q := range r {
		if t.beta != 0 {
			copy(edge[q*full:][:cols], c[q*pr.ldc:])
		}
		if t.resid != nil {
			copy(resid[q*full:][:cols], pr.ep.Residual[(i+q)*pr.ep.ResidualLD+j:])
		}
	}
	if t.resid != nil {
		t.resid, t.ldr = &resid[0], full*size
	}
	t.c, t.ldc, t.cols = &edge[0], full*size, full
	run(t)
	t.cols = cols
	for q := range r {
		copy(c[q*pr.ldc:][:cols], edge[q*full:])
	}
}

// activate applies the activation to a part of C, if the tiles have not.
func (pr *product[T]) activate(i0, i1, j0, j1 int) {
	if _, _, ok := pr.ep.clampOf(); ok {
		return
	}
	for i := i0; i < i1; i++ {
		pr.ep.activate(pr.c[i*pr.ldc:][j0:j1])
	}
}

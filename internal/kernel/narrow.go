package kernel

import "unsafe"

// Narrow products. With few rows or columns, packing an operand costs as much as the
// product itself. Rows of A are then multiplied with columns of B where they
// lie, if elements along k are contiguous in both.

const narrowest = 4 // rows or columns

// narrow reports whether the product is such a one, and readies its operands.
func (pr *product[T]) narrow() bool {
	if !is32[T]() || vector.dot4 == nil || pr.packedA != nil || pr.packedB != nil || pr.panelsB != nil || pr.k < 8 {
		return false
	}
	if pr.m > narrowest && pr.n > narrowest {
		return false
	}
	// A single row or column without gaps is contiguous either way.
	if pr.m == 1 && pr.a.across && pr.a.ld == 1 {
		pr.a = side[T]{pr.a.data, pr.k, false}
	}
	if pr.n == 1 && pr.b.across && pr.b.ld == 1 {
		pr.b = side[T]{pr.b.data, pr.k, false}
	}
	if pr.a.across || pr.b.across && (pr.n > narrowest || pr.m < 4*narrowest) {
		return false
	}
	if pr.b.across { // few columns: turn them
		pr.bufB = grow(pr.bufB, pr.n*pr.k)
		for p := range pr.k {
			for j, v := range pr.b.data[p*pr.b.ld:][:pr.n] {
				pr.bufB[j*pr.k+p] = v
			}
		}
		pr.b = side[T]{pr.bufB, pr.k, false}
	}
	return true
}

// dots makes a narrow product, sharing out the longer side of C.
func (pr *product[T]) dots(p *Pool) {
	if pr.m > pr.n {
		p.For(pr.m, 8, pr.dotRowsBody)
	} else {
		p.For(ceilDiv(pr.n, 4), 8, pr.dotColsBody)
	}
}

func (pr *product[T]) dotRows(lo, hi int) {
	for i := lo; i < hi; i++ {
		pr.dotRow(i, 0, pr.n)
	}
}

// dotCols makes columns [4·lo, 4·hi) of C, a few rows of B at a time, which stay in the
// cache for all rows of A.
func (pr *product[T]) dotCols(lo, hi int) {
	const step = 16
	for j := 4 * lo; j < min(4*hi, pr.n); j += step {
		for i := range pr.m {
			pr.dotRow(i, j, min(j+step, 4*hi, pr.n))
		}
	}
}

// dotRow makes columns [j0, j1) of row i of C.
func (pr *product[T]) dotRow(i, j0, j1 int) {
	a, b := f32(pr.a.data[i*pr.a.ld:])[:pr.k], f32(pr.b.data)
	c := f32(pr.c[i*pr.ldc:])[:pr.n]
	var s [4]float32
	ws := getWorkspace[float32]()
	ws.edge = grow(ws.edge, 4)
	for j := j0; j < j1; j += 4 {
		n := min(4, j1-j)
		if n == 4 {
			vector.dot4(&ws.edge[0], unsafe.SliceData(a), &b[j*pr.b.ld], pr.b.ld*4, pr.k)
			copy(s[:], ws.edge)
		} else {
			for q := range n {
				s[q] = vector.dot(a, b[(j+q)*pr.b.ld:][:pr.k])
			}
		}
		for q := range n {
			v := float32(pr.alpha) * s[q]
			if pr.beta != 0 {
				v += float32(pr.beta) * c[j+q]
			}
			c[j+q] = v
		}
	}
	ws.put()
	pr.ep.row(pr.c[i*pr.ldc:][j0:j1], i, j0)
}

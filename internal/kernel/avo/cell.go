package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// cells are the gates of recurrent layers and what becomes of the state, in one walk.
var cells = []struct {
	name  string
	write func(v vec, name string)
}{
	{"lstmCell", func(v vec, name string) {
		v.cell(name, []string{"i", "o", "f", "a", "c", "next", "hidden", "tanhC"},
			name+" activates gates of n units in place, and sets next = f·c + i·a, tanhC = tanh next and hidden = o·tanhC.",
			func(get func(p string) V, put func(p string, x V)) {
				set := func(p string, x V) V { put(p, x); return x }
				i, a := set("i", v.sigmoid(get("i"))), set("a", v.tanh(get("a")))
				f := set("f", v.sigmoid(get("f")))
				next := set("next", v.fma(i, a, v.mul(f, get("c"))))
				o := set("o", v.sigmoid(get("o")))
				put("hidden", v.mul(o, set("tanhC", v.tanh(next))))
			})
	}},
	{"gruCell", func(v vec, name string) {
		v.cell(name, []string{"z", "r", "m", "rec", "prev", "hidden"},
			name+" activates gates of n units in place, the third, m, after it got r·rec, and sets hidden = z·(prev - m) + m.",
			func(get func(p string) V, put func(p string, x V)) {
				set := func(p string, x V) V { put(p, x); return x }
				r := set("r", v.sigmoid(get("r")))
				m := set("m", v.tanh(v.fma(r, get("rec"), get("m"))))
				z := set("z", v.sigmoid(get("z")))
				put("hidden", v.fma(z, v.sub(get("prev"), m), m))
			})
	}},
}

// cell writes a function of vectors of n elements each, that may be one another.
func (v vec) cell(name string, ptrs []string, doc string, body func(get func(p string) V, put func(p string, x V))) {
	sig := ""
	for _, p := range ptrs {
		sig += p + ", "
	}
	v.fn(name, "("+sig[:len(sig)-2]+" *float32, n int)", doc)
	at, all := map[string]reg.GPVirtual{}, []reg.GPVirtual{}
	for _, p := range ptrs {
		at[p] = v.gp(p)
		all = append(all, at[p])
	}
	v.each(v.gp("n"), all, func(t *tail) {
		body(func(p string) V { return v.loadAt(at[p], t) }, func(p string, x V) {
			if m := (operand.Mem{Base: at[p]}); t == nil {
				v.VMOVUPS(x, m)
			} else {
				t.store(x, m)
			}
		})
	})
	v.VZEROUPPER()
	v.RET()
}

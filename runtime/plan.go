package runtime

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/internal/pages"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

// plan is a program for one set of input shapes: what hangs on shapes is computed, and
// intermediate values have places in one arena.
type plan struct {
	prog   *program
	known  []tensor.Value
	steps  []planStep
	arena  int
	fresh  []bool // by slot: computed into memory of its own in each run
	frames sync.Pool
}

type planStep struct {
	*step
	in     []ops.Info
	static bool    // every input's and output's shape is known: kernel and places are settled
	outs   []place // for static steps
	frees  []int   // slots that nothing reads after this step
}

// place is where a static output lives.
type place struct {
	dtype  tensor.DType
	shape  []int
	size   int
	offset int // in the arena, -1: allocated for each run
	alias  int // the slot whose memory it takes, -1: its own
}

// maxPlans bounds the plans that are kept for one program.
const maxPlans = 64

// planFor finds or makes the plan for these inputs.
func (p *program) planFor(ins, caps []tensor.Value) (*plan, error) {
	var buf [256]byte
	key := buf[:0]
	for _, vs := range [][]tensor.Value{ins, caps} {
		for _, v := range vs {
			t, ok := v.(*tensor.Tensor)
			if !ok || t == nil {
				key = append(key, 0xff)
				continue
			}
			key = append(key, byte(t.DType()), byte(t.Rank()))
			for _, d := range t.Shape() {
				key = binary.AppendUvarint(key, uint64(d))
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if pl := p.plans[string(key)]; pl != nil {
		return pl, nil
	}
	pl, err := p.plan(ins, caps)
	if err != nil {
		return nil, err
	}
	if len(p.plans) >= maxPlans {
		clear(p.plans)
	}
	p.plans[string(key)] = pl
	return pl, nil
}

func (p *program) plan(ins, caps []tensor.Value) (*plan, error) {
	infos, known := slices.Clone(p.infos), slices.Clone(p.known)
	for i, slot := range p.inputs {
		if ins[i] != nil {
			infos[slot] = infoOf(ins[i], infos[slot])
		} else if v := p.values[slot]; v.Const != nil {
			infos[slot] = ops.InfoOf(v.Const, false)
		}
	}
	for i, v := range p.captures {
		if slot := p.slots[v]; known[slot] == nil {
			infos[slot] = infoOf(caps[i], infos[slot])
		}
	}
	pl, taken := &plan{prog: p, known: known}, map[*step]*program{}
	err := p.infer(infos, known, func(s *step, in, outs []ops.Info) error {
		if branch := s.taken(in); branch != nil {
			taken[s] = branch
			return nil
		}
		st := planStep{step: s, in: in, static: s.bodies == nil && settled(s, in)}
		for i, slot := range s.outs {
			if slot < 0 {
				st.outs = append(st.outs, place{alias: -1, offset: -1})
				if i == 0 && s.node.Def.MinOut > 0 { // its kernel takes it for granted
					st.static = false
				}
				continue
			}
			shape, ok := outs[i].Static()
			if !ok || outs[i].DType == tensor.String {
				st.static = false
				continue
			}
			size, err := tensor.ByteSize(outs[i].DType, shape)
			if err != nil {
				return ops.Errorf(s.node.Node, "%w", err)
			}
			st.outs = append(st.outs, place{dtype: outs[i].DType, shape: shape, size: size, offset: -1, alias: -1})
		}
		pl.steps = append(pl.steps, st)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(taken) > 0 {
		q, err := p.with(taken)
		if err != nil {
			return nil, err
		}
		return q.plan(ins, caps)
	}
	r := p.set.recompute
	if p.depth > 0 {
		r = Recompute{}
	}
	if pl, err = pl.recompute(r); err != nil {
		return nil, err
	}
	pl.fresh = make([]bool, len(pl.known))
	for _, st := range pl.steps {
		for _, slot := range st.step.outs {
			if slot >= 0 {
				pl.fresh[slot] = st.static
			}
		}
	}
	pl.frames.New = func() any { return pl.newFrame() }
	return pl, nil
}

// infer adds to infos and known what follows, step by step, from what they hold. each, if any, is told of the
// steps whose outputs are not known by then.
func (p *program) infer(infos []ops.Info, known []tensor.Value, each func(s *step, in, outs []ops.Info) error) error {
	for _, s := range p.steps {
		if folded(s, known) {
			continue
		}
		r := *s.node
		r.In = p.infosOf(s, infos)
		if s.bodies != nil {
			r.Bodies = p.bind(s, infos, nil)
		}
		outs, err := r.InferOutputs()
		if err != nil {
			return err
		}
		p.note(s, outs, infos, known)
		if each == nil || folded(s, known) {
			continue
		}
		if err := each(s, r.In, outs); err != nil {
			return err
		}
	}
	return nil
}

// infoOf describes a value that is at hand. What a sequence's elements have in common is known from before, if at all.
func infoOf(v tensor.Value, before ops.Info) ops.Info {
	info := ops.InfoOf(v, false)
	if info.Kind == before.Kind {
		info.Elem = before.Elem
	}
	return info
}

func folded(s *step, known []tensor.Value) bool {
	for _, o := range s.outs {
		if o >= 0 && known[o] == nil {
			return false
		}
	}
	return true
}

// place gives static outputs memory: an input's where the operator allows it, else a stretch
// of the arena that nothing alive holds. What a step of unknown shape reads, and what
// leaves the graph, is allocated for each run, since such a step may keep it.
func (pl *plan) place() {
	p := pl.prog
	n := len(pl.known)
	last := make([]int, n) // last step that reads the slot
	for i := range last {
		last[i] = -1
	}
	escapes := make([]bool, n)
	for i, st := range pl.steps {
		for _, slot := range p.reads(st.step) {
			last[slot] = i
			if !st.static {
				escapes[slot] = true
			}
		}
	}
	for _, slot := range p.outputs {
		last[slot] = len(pl.steps)
		escapes[slot] = true
	}
	type chunk struct{ size, from, to int }
	root := make([]int, n) // slot whose memory this one shares, itself if its own
	own := make([]*chunk, n)
	for i := range root {
		root[i] = i
	}
	for i := range pl.steps {
		st := &pl.steps[i]
		if !st.static {
			continue
		}
		for k := range st.outs {
			slot := st.step.outs[k]
			if slot < 0 {
				continue
			}
			o := &st.outs[k]
			if k == 0 && st.node.Def.View && !slices.Contains(p.outputs, slot) {
				o.alias = st.ins[0]
				root[slot] = root[st.ins[0]]
				if c := own[root[slot]]; c != nil {
					c.to = max(c.to, last[slot])
				}
				if escapes[slot] {
					escapes[root[slot]] = true
				}
				continue
			}
			if k == 0 && !slices.Contains(p.outputs, slot) && !escapes[slot] {
				for _, j := range st.node.Def.InPlace {
					if j >= len(st.ins) || st.ins[j] < 0 {
						continue
					}
					r := root[st.ins[j]]
					if c := own[r]; c != nil && c.to == i && c.size == o.size && !escapes[r] && readOnce(st.ins, st.ins[j], root) {
						o.alias = st.ins[j]
						root[slot] = r
						c.to = max(i, last[slot])
						break
					}
				}
				if o.alias >= 0 {
					continue
				}
			}
			own[slot] = &chunk{o.size, i, max(i, last[slot])}
		}
	}
	// Escape is only settled now: views come after their roots.
	type item struct {
		slot int
		*chunk
		offset int
	}
	var items []*item
	for i := range pl.steps {
		st := &pl.steps[i]
		if !st.static {
			continue
		}
		for k := range st.outs {
			if slot := st.step.outs[k]; slot >= 0 && own[slot] != nil && !escapes[slot] {
				items = append(items, &item{slot: slot, chunk: own[slot]})
			}
		}
	}
	sort.SliceStable(items, func(a, b int) bool { return items[a].size > items[b].size })
	offset := make(map[int]int, len(items))
	var placed []*item
	for _, it := range items {
		size := (it.size + 63) &^ 63
		at := 0
		for _, q := range placed { // placed is ordered by offset
			if q.to < it.from || q.from > it.to {
				continue
			}
			if q.offset-at >= size {
				break
			}
			at = max(at, q.offset+(q.size+63)&^63)
		}
		it.offset = at
		offset[it.slot] = at
		pl.arena = max(pl.arena, at+size)
		k := sort.Search(len(placed), func(k int) bool { return placed[k].offset > at })
		placed = append(placed, nil)
		copy(placed[k+1:], placed[k:])
		placed[k] = it
	}
	for i := range pl.steps {
		st := &pl.steps[i]
		for k := range st.outs {
			if !st.static || st.step.outs[k] < 0 {
				continue
			}
			// An alias of another size is an error that the run tells.
			r := root[st.step.outs[k]]
			if at, ok := offset[r]; ok && own[r].size == st.outs[k].size {
				st.outs[k].offset = at
			}
		}
	}
	for slot, i := range last {
		if i >= 0 && i < len(pl.steps) && root[slot] == slot {
			pl.steps[i].frees = append(pl.steps[i].frees, slot)
		}
	}
}

// readOnce reports whether the memory of slot is read by just one of a step's inputs.
func readOnce(ins []int, slot int, root []int) bool {
	n := 0
	for _, in := range ins {
		if in >= 0 && root[in] == root[slot] {
			n++
		}
	}
	return n == 1
}

// settled reports whether the shapes of all inputs are. Where they are not, an output of known shape is an output that
// the inputs may turn out not to suit.
func settled(s *step, in []ops.Info) bool {
	for k, slot := range s.ins {
		if _, ok := in[k].Static(); slot >= 0 && !ok {
			return false
		}
	}
	return true
}

// frame is the state of one run: its values and its arena.
type frame struct {
	prog  *program
	plan  *plan
	vals  []tensor.Value
	bytes []int64 // charged for a slot allocated in this run
	arena []byte
	ctxs  []ops.Ctx
	seen  []repeat         // of steps that are not static
	given []*tensor.Tensor // by slot: the caller's memory for what leaves the model, nil where there is none
}

// repeat is what the last run of a step found of its outputs, for as long as its inputs have the same shapes, and if those
// alone decide.
type repeat struct {
	ctx    ops.Ctx
	outs   []place
	misses int
	fits   bool
}

// maxMisses is after how many other shapes a step is inferred anew each time.
const maxMisses = 16

// learn notes what follows from the shapes of the inputs of node alone.
func (r *repeat) learn(st *planStep, node *ops.Node, pool *kernel.Pool) {
	r.misses++
	r.fits = false
	if st.bodies != nil || r.misses > maxMisses {
		return
	}
	for _, in := range node.In {
		if in.Kind != onnx.TensorType {
			return
		}
	}
	blind := *node
	blind.In = slices.Clone(node.In)
	for i := range blind.In {
		blind.In[i].Const = nil
	}
	infos, err := blind.InferOutputs()
	if err != nil {
		return
	}
	r.outs = r.outs[:0]
	for i, slot := range st.step.outs {
		o := place{dtype: infos[i].DType}
		if slot >= 0 || i == 0 {
			var ok bool
			if o.shape, ok = infos[i].Static(); !ok || o.dtype == tensor.String {
				return
			}
			o.size, err = tensor.ByteSize(o.dtype, o.shape)
			if err != nil || o.size == 0 {
				return
			}
		}
		r.outs = append(r.outs, o)
	}
	r.ctx = ops.Ctx{Pool: pool, Node: &blind, Ins: make([]tensor.Value, len(blind.In)), Outs: make([]tensor.Value, len(r.outs))}
	r.fits = true
}

// suits reports whether vals have the shapes of the last run, and notes them.
func (r *repeat) suits(vals []tensor.Value) bool {
	if !r.fits {
		return false
	}
	in := r.ctx.Node.In
	for i, v := range vals {
		if v == nil {
			if in[i].DType != tensor.Undefined {
				return false
			}
			continue
		}
		t, ok := v.(*tensor.Tensor)
		if !ok || t == nil || t.DType() != in[i].DType || t.Rank() != len(in[i].Shape) {
			return false
		}
		for k, d := range t.Shape() {
			if in[i].Shape[k].N != d {
				return false
			}
		}
	}
	for i, v := range vals {
		r.ctx.Ins[i] = v
		if t, ok := v.(*tensor.Tensor); ok {
			in[i].Const = t
		}
	}
	return true
}

// run is the step once more.
func (r *repeat) run(ctx context.Context, mem *ops.Meter, st *planStep) error {
	c := &r.ctx
	c.Context, c.Mem = ctx, mem
	for i, o := range r.outs {
		c.Outs[i] = nil
		if o.shape == nil {
			continue
		}
		var t *tensor.Tensor
		var err error
		if st.node.Def.View && i == 0 {
			t, err = c.In(0).Reshape(o.shape...)
		} else {
			t, err = c.New(o.dtype, o.shape...)
		}
		if err != nil {
			return ops.Errorf(st.node.Node, "%w", err)
		}
		c.Outs[i] = t
	}
	if st.kernel != nil {
		if err := st.kernel(c); err != nil {
			return ops.Errorf(st.node.Node, "%w", err)
		}
	}
	return nil
}

// forget lets go of values, which may be large.
func (r *repeat) forget() {
	clear(r.ctx.Ins)
	clear(r.ctx.Outs)
	if r.ctx.Node != nil {
		for i := range r.ctx.Node.In {
			r.ctx.Node.In[i].Const = nil
		}
	}
}

func (pl *plan) newFrame() *frame {
	f := &frame{prog: pl.prog, plan: pl, vals: make([]tensor.Value, len(pl.known)), bytes: make([]int64, len(pl.known)),
		arena: tensor.AlignedBytes(pl.arena), ctxs: make([]ops.Ctx, len(pl.steps)), seen: make([]repeat, len(pl.steps)),
		given: make([]*tensor.Tensor, len(pl.known))}
	pages.Huge(f.arena)
	// Tensors in the arena are the same in every run of this frame.
	for i := range pl.steps {
		st := &pl.steps[i]
		node := *st.node
		node.In = st.in
		f.ctxs[i] = ops.Ctx{Pool: pl.prog.set.pool, Node: &node, Static: st.static, Ins: make([]tensor.Value, len(st.ins)), Outs: make([]tensor.Value, len(st.step.outs))}
	}
	return f
}

// frame is one for a run: the program's last one if it was of this plan. The collector forgets the others, since their arenas may be large, but
// would have that one made anew every other time that it comes by.
func (pl *plan) frame() *frame {
	if f := pl.prog.last.Swap(nil); f != nil {
		if f.plan == pl {
			return f
		}
		f.plan.frames.Put(f)
	}
	return pl.frames.Get().(*frame)
}

// release lets another run have f.
func (f *frame) release() {
	if before := f.prog.last.Swap(f); before != nil {
		before.plan.frames.Put(before)
	}
}

// run computes the program's outputs: into those of outs that are not nil, which must share no memory with ins, and into memory of
// their own. ins may hold nil where an input has a default.
func (p *program) run(ctx context.Context, mem *ops.Meter, ins, caps, outs []tensor.Value) (err error) {
	pl, err := p.planFor(ins, caps)
	if err != nil {
		return err
	}
	start := mem.Used()
	defer func() { mem.Give(mem.Used() - start) }()
	if err := mem.Take(int64(pl.arena)); err != nil {
		return err
	}
	f := pl.frame()
	copy(f.vals, pl.known)
	for i, slot := range p.outputs {
		f.given[slot], _ = outs[i].(*tensor.Tensor)
	}
	for i, slot := range p.inputs {
		if f.vals[slot] = ins[i]; ins[i] == nil {
			f.vals[slot] = p.values[slot].Const
		}
	}
	for i, v := range p.captures {
		if slot := p.slots[v]; f.vals[slot] == nil {
			f.vals[slot] = caps[i]
		}
	}
	if p.set.profile != nil {
		ctx = p.set.profile.begin(ctx)
	}
	var current *step
	defer func() {
		if r := recover(); r != nil {
			err = panicked(current.node.Node, r)
			return // the frame is not reused: a worker may still hold it
		}
		clear(f.vals)
		clear(f.bytes)
		clear(f.given)
		f.release()
	}()
	for i := range pl.steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		st := &pl.steps[i]
		current = st.step
		var begin time.Time
		if p.set.profile != nil {
			begin = time.Now()
		}
		if err := f.step(ctx, mem, i, st, &f.ctxs[i]); err != nil {
			return err
		}
		if p.set.profile != nil {
			d := time.Since(begin)
			p.set.profile.add(ctx, st.node.Node, f.operands(st), p.depth > 0, begin, d)
		}
		for _, slot := range st.frees {
			f.vals[slot] = nil
			mem.Give(f.bytes[slot])
			f.bytes[slot] = 0
		}
	}
	for i, slot := range p.outputs {
		v := f.vals[slot]
		if outs[i] != nil {
			if err := fill(outs[i], v); err != nil {
				return fmt.Errorf("output %q: %w", p.values[slot].Name, err)
			}
			continue
		}
		// What leaves the model must not be a part of it, nor have come in, nor leave twice. Steps of which the plan does
		// not know the outputs may pass on what they were given.
		if p.depth == 0 && (!pl.fresh[slot] || slices.Contains(outs[:i], v)) {
			v = detach(v)
		}
		outs[i] = v
	}
	return nil
}

// fill sees to it that v is in the memory of dst.
func fill(dst, v tensor.Value) error {
	if dst == v {
		return nil
	}
	d, ok := dst.(*tensor.Tensor)
	t, is := v.(*tensor.Tensor)
	switch {
	case !ok || !is:
		return fmt.Errorf("computed %v, which cannot be written into %v", v, dst)
	case d.DType() != t.DType() || !slices.Equal(d.Shape(), t.Shape()):
		return fmt.Errorf("computed %s, which cannot be written into %s", t, d)
	}
	return tensor.ConvertInto(d, t, false)
}

// operands is what a step has read and written.
func (f *frame) operands(st *planStep) *ops.Ctx {
	at := func(slots []int) []tensor.Value {
		vs := make([]tensor.Value, len(slots))
		for k, slot := range slots {
			if slot >= 0 {
				vs[k] = f.vals[slot]
			}
		}
		return vs
	}
	return &ops.Ctx{Node: st.node, Ins: at(st.ins), Outs: at(st.step.outs)}
}

// keep takes over the outputs of a step that is not static.
func (f *frame) keep(mem *ops.Meter, before int64, st *planStep, outs []tensor.Value) {
	var kept int64
	for k, slot := range st.step.outs {
		if slot >= 0 {
			f.vals[slot] = outs[k]
			f.bytes[slot] = held(outs[k])
			kept += f.bytes[slot]
		}
	}
	mem.Give(mem.Used() - before - kept)
}

// held is the bytes of v.
func held(v tensor.Value) (n int64) {
	switch v := v.(type) {
	case *tensor.Tensor:
		size, _ := tensor.ByteSize(v.DType(), v.Shape())
		return int64(size) + ops.TensorHead
	case *tensor.Sequence:
		n = ops.TensorHead
		for _, e := range v.Values {
			n += held(e)
		}
	case *tensor.Optional:
		return held(v.Value)
	}
	return n
}

// detach is a copy of v down to its elements.
func detach(v tensor.Value) tensor.Value {
	switch v := v.(type) {
	case *tensor.Tensor:
		return v.Clone()
	case *tensor.Sequence:
		w := &tensor.Sequence{Elem: v.Elem, Values: make([]tensor.Value, len(v.Values))}
		for i, e := range v.Values {
			w.Values[i] = detach(e)
		}
		return w
	case *tensor.Optional:
		if v.Value != nil {
			return &tensor.Optional{Value: detach(v.Value)}
		}
	}
	return v
}

func (f *frame) step(ctx context.Context, mem *ops.Meter, i int, st *planStep, c *ops.Ctx) error {
	c.Context, c.Mem = ctx, mem
	for k, slot := range st.ins {
		if slot >= 0 {
			c.Ins[k] = f.vals[slot]
		}
	}
	before := mem.Used()
	if !st.static {
		again := &f.seen[i]
		if again.suits(c.Ins) {
			if err := again.run(ctx, mem, st); err != nil {
				return err
			}
			f.keep(mem, before, st, again.ctx.Outs)
			again.forget()
			return nil
		}
		r := *st.node
		r.In = make([]ops.Info, len(c.Ins))
		for k, v := range c.Ins {
			if v != nil {
				r.In[k] = ops.InfoOf(v, true)
			}
		}
		if st.bodies != nil {
			r.Bodies = f.prog.bind(st.step, nil, f.vals)
		}
		d := &ops.Ctx{Context: ctx, Pool: c.Pool, Node: &r, Mem: mem, Ins: append([]tensor.Value(nil), c.Ins...)}
		if err := execute(st.step, d); err != nil {
			return err
		}
		f.keep(mem, before, st, d.Outs)
		again.learn(st, &r, c.Pool)
		return nil
	}
	var kept int64
	for k := range st.outs {
		slot := st.step.outs[k]
		if slot < 0 {
			c.Outs[k] = nil
			continue
		}
		o := &st.outs[k]
		var err error
		switch {
		case o.offset >= 0:
			if c.Outs[k] == nil {
				c.Outs[k], err = tensor.FromBytes(o.dtype, o.shape, f.arena[o.offset:o.offset+o.size:o.offset+o.size], nil)
			}
		case o.alias >= 0:
			src := f.vals[o.alias].(*tensor.Tensor)
			if o.dtype == src.DType() {
				c.Outs[k], err = src.Reshape(o.shape...)
			} else {
				c.Outs[k], err = tensor.FromBytes(o.dtype, o.shape, src.Bytes(), nil)
			}
		case f.takes(slot, o):
			c.Outs[k] = f.given[slot]
		default:
			c.Outs[k], err = c.New(o.dtype, o.shape...)
			f.bytes[slot] = int64(o.size)
			kept += int64(o.size)
		}
		if err != nil {
			return ops.Errorf(st.node.Node, "%w", err)
		}
		f.vals[slot] = c.Outs[k]
	}
	if st.node.Def.View && st.outs[0].alias < 0 { // a view that leaves the graph
		src, dst := c.In(0), c.Out(0)
		if len(dst.Bytes()) != len(src.Bytes()) {
			return ops.Errorf(st.node.Node, "%s does not have the shape %v", src, dst.Shape())
		}
		copy(dst.Bytes(), src.Bytes())
	}
	if st.kernel != nil && !allEmpty(c.Outs, st.step.outs) {
		if err := st.kernel(c); err != nil {
			return ops.Errorf(st.node.Node, "%w", err)
		}
		if err := f.settle(st, c); err != nil {
			return err
		}
	}
	mem.Give(mem.Used() - before - kept)
	return nil
}

// takes reports whether the caller's memory for a slot is what o is to have.
func (f *frame) takes(slot int, o *place) bool {
	t := f.given[slot]
	return t != nil && t.DType() == o.dtype && slices.Equal(t.Shape(), o.shape)
}

// settle sees to it that a kernel that put a tensor of its own in place of a planned output did not do so
// in vain: its elements are copied to where the plan has them.
func (f *frame) settle(st *planStep, c *ops.Ctx) error {
	for k, slot := range st.step.outs {
		if slot < 0 || c.Outs[k] == f.vals[slot] {
			continue
		}
		planned := f.vals[slot].(*tensor.Tensor)
		got, ok := c.Outs[k].(*tensor.Tensor)
		c.Outs[k] = planned
		if !ok || got.DType() != planned.DType() || !slices.Equal(got.Shape(), planned.Shape()) {
			return ops.Errorf(st.node.Node, "output %d: inferred %s, computed %v", k, planned, got)
		}
		copy(planned.Bytes(), got.Bytes())
	}
	return nil
}

// bound is a subgraph with the values that it captures.
type bound struct {
	prog  *program
	infos []ops.Info
	vals  []tensor.Value
}

// bind prepares a step's subgraphs for inference (infos) or for a run (vals, by slot).
func (p *program) bind(s *step, infos []ops.Info, vals []tensor.Value) map[string]ops.Body {
	bodies := make(map[string]ops.Body, len(s.bodies))
	for name, prog := range s.bodies {
		b := &bound{prog: prog}
		for _, v := range prog.captures {
			slot := p.slots[v]
			if infos != nil {
				b.infos = append(b.infos, infos[slot])
			}
			if vals != nil {
				b.vals = append(b.vals, vals[slot])
			}
		}
		bodies[name] = b
	}
	return bodies
}

func (b *bound) NumInputs() int  { return len(b.prog.inputs) }
func (b *bound) NumOutputs() int { return len(b.prog.outputs) }

// Infer tells what is known of the subgraph's outputs: of a branch, which has no inputs, for what it captures, if that is at hand.
func (b *bound) Infer(inputs []ops.Info) ([]ops.Info, error) {
	p := b.prog
	out := make([]ops.Info, len(p.outputs))
	if len(p.inputs) == 0 && b.infos != nil {
		infos, known := slices.Clone(p.infos), slices.Clone(p.known)
		for i, v := range p.captures {
			slot := p.slots[v]
			if infos[slot] = b.infos[i]; b.infos[i].Const != nil {
				known[slot] = b.infos[i].Const
			}
		}
		if err := p.infer(infos, known, nil); err == nil {
			for i, slot := range p.outputs {
				out[i] = infos[slot]
			}
			return out, nil
		} // else it may be that this branch is not taken
	}
	for i, slot := range p.outputs {
		if out[i] = p.infos[slot]; len(p.inputs) > 0 { // of any of its runs
			out[i] = out[i].WithoutValue().Without(p.path)
		}
	}
	return out, nil
}

// Run computes the subgraph.
func (b *bound) Run(c *ops.Ctx, inputs []tensor.Value) ([]tensor.Value, error) {
	if len(inputs) != len(b.prog.inputs) {
		return nil, fmt.Errorf("subgraph %q takes %d inputs, not %d", b.prog.graph.Name, len(b.prog.inputs), len(inputs))
	}
	for i, v := range inputs {
		if v == nil && b.prog.values[b.prog.inputs[i]].Const == nil {
			return nil, fmt.Errorf("subgraph %q: input %d is left out", b.prog.graph.Name, i)
		}
	}
	outs := make([]tensor.Value, len(b.prog.outputs))
	if err := b.prog.run(c.Context, c.Mem, inputs, b.vals, outs); err != nil {
		return nil, err
	}
	return outs, nil
}

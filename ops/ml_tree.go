package ops

import (
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// Ensembles of decision trees. The two ways in which models write them down (nodes with ids, opsets 1 and 3; arrays of nodes and of leaves,
// opset 5) become one [treeSpec], which is checked once, and that a [forest] of the input's precision.
func init() {
	const steps = "the answer is constant between the splits"
	register(
		Op{Domain: mlDomain, Name: "TreeEnsembleRegressor", Since: []int{1, 3, 5}, MinIn: 1, Types: []TypeSet{mlNumeric},
			Infer: inferTrees(tensor.Float32), Compile: compileTreeRegressor, NoGrad: steps, Flat: true},
		Op{Domain: mlDomain, Name: "TreeEnsembleClassifier", Since: []int{1, 3, 5}, MinIn: 1, MinOut: 1, MaxOut: 2, Types: []TypeSet{mlNumeric},
			Infer: inferClassifier("classlabels_strings", "classlabels_int64s"), Compile: compileTreeClassifier, NoGrad: steps, Flat: true},
		Op{Domain: mlDomain, Name: "TreeEnsemble", Since: []int{5}, MinIn: 1, Types: []TypeSet{Of(tensor.Float32, tensor.Float64, tensor.Float16)},
			Infer: inferTrees(tensor.Undefined), Compile: compileTreeEnsemble, NoGrad: steps, Flat: true},
	)
}

// inferTrees: scores [N,n_targets] of type d, or the input's.
func inferTrees(d tensor.DType) func(*Node) ([]Info, error) {
	return func(n *Node) ([]Info, error) {
		rows, err := inferRows(n.In[0])
		if err != nil {
			return nil, err
		}
		out := d
		if out == tensor.Undefined {
			out = n.In[0].DType
		}
		targets := Unknown
		if t := n.Int("n_targets", 1); t >= 1 && t <= math.MaxInt32 {
			targets = D(int(t))
		}
		return []Info{Tensor(out, rows, targets)}, nil
	}
}

// The comparisons of a node, with the numbers of TreeEnsemble.
const (
	branchLEQ = iota
	branchLT
	branchGTE
	branchGT
	branchEQ
	branchNEQ
	branchMember
)

var branchModes = []string{"BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"}

// treeSpec is an ensemble as a model gives it. A child is a node's index, or ^k for leaf k.
type treeSpec struct {
	nodes   []specNode
	roots   []int32
	leaves  []specLeaf
	targets int
	wide    bool // some number is not a float32
}

type specNode struct {
	feature int64
	mode    int
	split   float64
	set     []float64 // of branchMember
	yes, no int32
	missing bool // NaN goes to yes
}

type specLeaf []leafWeight

type leafWeight struct {
	target int32
	weight float64
}

// check sees to it that every walk from a root ends, and renumbers the nodes in the order of the walk, so that a path's
// nodes lie close together. Nodes that no walk reaches are dropped.
func (s *treeSpec) check() error {
	const fresh, open, done = 0, 1, 2
	state := make([]byte, len(s.nodes))
	place := make([]int32, len(s.nodes))
	var order []int32
	type visit struct {
		node int32
		next int
	}
	var stack []visit
	enter := func(child int32) error {
		switch {
		case child < 0 && int(^child) < len(s.leaves):
			return nil
		case child < 0 || int(child) >= len(s.nodes):
			return fmt.Errorf("a tree refers to a node or leaf that is not there")
		case state[child] == open:
			return fmt.Errorf("the trees' nodes form a cycle")
		case state[child] == fresh:
			state[child], place[child] = open, int32(len(order))
			order = append(order, child)
			stack = append(stack, visit{node: child})
		}
		return nil
	}
	for _, root := range s.roots {
		if err := enter(root); err != nil {
			return err
		}
		for len(stack) > 0 {
			v := &stack[len(stack)-1]
			n := &s.nodes[v.node]
			if v.next == 2 {
				state[v.node] = done
				stack = stack[:len(stack)-1]
				continue
			}
			child := n.yes
			if v.next == 1 {
				child = n.no
			}
			v.next++
			if err := enter(child); err != nil {
				return err
			}
		}
	}
	move := func(child int32) int32 {
		if child < 0 {
			return child
		}
		return place[child]
	}
	nodes := make([]specNode, len(order))
	for i, old := range order {
		n := s.nodes[old]
		n.yes, n.no = move(n.yes), move(n.no)
		if n.feature < 0 || n.feature > math.MaxInt32 {
			return fmt.Errorf("a tree's node reads feature %d", n.feature)
		}
		nodes[i] = n
	}
	s.nodes = nodes
	for i, r := range s.roots {
		s.roots[i] = move(r)
	}
	return nil
}

// numbers is a list of numbers as an attribute of floats, or as a tensor under another name.
func (s *treeSpec) numbers(a *attrs, name, tensorName string) []float64 {
	list := a.floats(name)
	if a.n.Attr(tensorName) == nil {
		return widened[float64](list)
	}
	if len(list) > 0 {
		a.fail("attributes %s and %s exclude each other", name, tensorName)
	}
	return s.elements(a, tensorName)
}

// elements is a tensor of numbers; doubles make the ensemble wide.
func (s *treeSpec) elements(a *attrs, name string) []float64 {
	t := a.tensor(name)
	if t == nil {
		return nil
	}
	if d := t.DType(); d != tensor.Float32 && d != tensor.Float64 && d != tensor.Float16 {
		a.fail("attribute %s holds elements of type %s", name, d)
		return nil
	}
	s.wide = s.wide || t.DType() == tensor.Float64
	return tensor.Float64s(t)
}

// maxTreeNodes keeps indexes within int32.
const maxTreeNodes = math.MaxInt32 / 2

// readIDTrees reads the form with node ids; prefix is that of the leaves' attributes, class or target.
func readIDTrees(a *attrs, prefix string, targets int) (*treeSpec, error) {
	s := &treeSpec{targets: targets}
	trees, ids, features := a.ints("nodes_treeids"), a.ints("nodes_nodeids"), a.ints("nodes_featureids")
	modes, yes, no := a.strings("nodes_modes"), a.ints("nodes_truenodeids"), a.ints("nodes_falsenodeids")
	missing, splits := a.ints("nodes_missing_value_tracks_true"), s.numbers(a, "nodes_values", "nodes_values_as_tensor")
	ofTargets, ofTrees, ofNodes := a.ints(prefix+"_ids"), a.ints(prefix+"_treeids"), a.ints(prefix+"_nodeids")
	weights := s.numbers(a, prefix+"_weights", prefix+"_weights_as_tensor")
	if a.err != nil {
		return nil, a.err
	}
	n := len(ids)
	if n == 0 || n > maxTreeNodes {
		return nil, fmt.Errorf("attribute nodes_nodeids has %d elements", n)
	}
	for _, l := range []struct {
		name string
		got  int
	}{{"nodes_treeids", len(trees)}, {"nodes_featureids", len(features)}, {"nodes_modes", len(modes)}, {"nodes_truenodeids", len(yes)},
		{"nodes_falsenodeids", len(no)}, {"nodes_values", len(splits)}} {
		if l.got != n {
			return nil, fmt.Errorf("attribute %s has %d elements, where nodes_nodeids has %d", l.name, l.got, n)
		}
	}
	if len(missing) != 0 && len(missing) != n {
		return nil, fmt.Errorf("attribute nodes_missing_value_tracks_true has %d elements, where nodes_nodeids has %d", len(missing), n)
	}
	if len(ofTrees) != len(ofTargets) || len(ofNodes) != len(ofTargets) || len(weights) != len(ofTargets) {
		return nil, fmt.Errorf("attributes %s_ids, _treeids, _nodeids and _weights have %d, %d, %d and %d elements", prefix,
			len(ofTargets), len(ofTrees), len(ofNodes), len(weights))
	}
	type key struct{ tree, node int64 }
	at := make(map[key]int32, n) // the node's index, or ^ that of its leaf
	started := map[int64]bool{}
	s.nodes = make([]specNode, 0, n)
	for i := range n {
		k := key{trees[i], ids[i]}
		if _, ok := at[k]; ok {
			return nil, fmt.Errorf("node %d of tree %d is there twice", k.node, k.tree)
		}
		var ref int32
		if modes[i] == "LEAF" {
			ref = ^int32(len(s.leaves))
			s.leaves = append(s.leaves, nil)
		} else {
			mode := slices.Index(branchModes, modes[i])
			if mode < 0 {
				return nil, fmt.Errorf("attribute nodes_modes holds %q", modes[i])
			}
			ref = int32(len(s.nodes))
			s.nodes = append(s.nodes, specNode{feature: features[i], mode: mode, split: splits[i], missing: len(missing) > 0 && missing[i] != 0})
		}
		at[k] = ref
		if !started[k.tree] { // a tree's first node is its root
			started[k.tree] = true
			s.roots = append(s.roots, ref)
		}
	}
	node := 0
	for i := range n {
		if modes[i] == "LEAF" {
			continue
		}
		for _, c := range []struct {
			to *int32
			id int64
		}{{&s.nodes[node].yes, yes[i]}, {&s.nodes[node].no, no[i]}} {
			ref, ok := at[key{trees[i], c.id}]
			if !ok {
				return nil, fmt.Errorf("node %d of tree %d refers to node %d, which is not there", ids[i], trees[i], c.id)
			}
			*c.to = ref
		}
		node++
	}
	for i, t := range ofTargets {
		ref, ok := at[key{ofTrees[i], ofNodes[i]}]
		if !ok {
			return nil, fmt.Errorf("attribute %s_nodeids refers to node %d of tree %d, which is not there", prefix, ofNodes[i], ofTrees[i])
		}
		if t < 0 || t >= int64(targets) {
			return nil, fmt.Errorf("attribute %s_ids holds %d, with %d in all", prefix, t, targets)
		}
		if ref < 0 { // weights of inner nodes count for nothing
			s.leaves[^ref] = append(s.leaves[^ref], leafWeight{int32(t), weights[i]})
		}
	}
	return s, s.check()
}

// readArrayTrees reads the form of opset 5's TreeEnsemble.
func readArrayTrees(a *attrs, targets int) (*treeSpec, error) {
	s := &treeSpec{targets: targets}
	roots, features := a.ints("tree_roots"), a.ints("nodes_featureids")
	yes, no, yesLeaf, noLeaf := a.ints("nodes_truenodeids"), a.ints("nodes_falsenodeids"), a.ints("nodes_trueleafs"), a.ints("nodes_falseleafs")
	missing, splits := a.ints("nodes_missing_value_tracks_true"), s.elements(a, "nodes_splits")
	ofTargets, weights, members := a.ints("leaf_targetids"), s.elements(a, "leaf_weights"), s.elements(a, "membership_values")
	modes := a.tensor("nodes_modes")
	if a.err != nil {
		return nil, a.err
	}
	if modes == nil || modes.DType() != tensor.Uint8 {
		return nil, fmt.Errorf("attribute nodes_modes must be a tensor of uint8")
	}
	kinds := tensor.Data[uint8](modes)
	n := len(kinds)
	if len(roots) == 0 || n > maxTreeNodes || len(ofTargets) > maxTreeNodes {
		return nil, fmt.Errorf("%d trees of %d nodes and %d leaves", len(roots), n, len(ofTargets))
	}
	for _, l := range []struct {
		name string
		got  int
	}{{"nodes_featureids", len(features)}, {"nodes_truenodeids", len(yes)}, {"nodes_falsenodeids", len(no)}, {"nodes_trueleafs", len(yesLeaf)},
		{"nodes_falseleafs", len(noLeaf)}, {"nodes_splits", len(splits)}} {
		if l.got != n {
			return nil, fmt.Errorf("attribute %s has %d elements, where nodes_modes has %d", l.name, l.got, n)
		}
	}
	if len(missing) != 0 && len(missing) != n {
		return nil, fmt.Errorf("attribute nodes_missing_value_tracks_true has %d elements, where nodes_modes has %d", len(missing), n)
	}
	if len(weights) != len(ofTargets) {
		return nil, fmt.Errorf("attributes leaf_weights and leaf_targetids have %d and %d elements", len(weights), len(ofTargets))
	}
	for i, t := range ofTargets {
		if t < 0 || t >= int64(targets) {
			return nil, fmt.Errorf("attribute leaf_targetids holds %d, with %d targets", t, targets)
		}
		s.leaves = append(s.leaves, specLeaf{{int32(t), weights[i]}})
	}
	child := func(id, leaf int64) (int32, error) {
		switch {
		case leaf != 0 && id >= 0 && id < int64(len(s.leaves)):
			return ^int32(id), nil
		case leaf == 0 && id >= 0 && id < int64(n):
			return int32(id), nil
		}
		return 0, fmt.Errorf("a node refers to node or leaf %d, of %d nodes and %d leaves", id, n, len(s.leaves))
	}
	s.nodes = make([]specNode, n)
	for i := range s.nodes {
		node := specNode{feature: features[i], mode: int(kinds[i]), split: splits[i], missing: len(missing) > 0 && missing[i] != 0}
		if node.mode > branchMember {
			return nil, fmt.Errorf("attribute nodes_modes holds %d", node.mode)
		}
		if node.mode == branchMember { // the sets follow each other, a NaN between them
			if len(members) == 0 {
				return nil, fmt.Errorf("attribute membership_values has fewer sets than there are nodes of mode %d", branchMember)
			}
			end := slices.IndexFunc(members, math.IsNaN)
			if end < 0 {
				end = len(members)
			}
			node.set = slices.Clone(members[:end])
			slices.Sort(node.set)
			members = members[min(end+1, len(members)):]
		}
		var err error
		if node.yes, err = child(yes[i], yesLeaf[i]); err != nil {
			return nil, err
		}
		if node.no, err = child(no[i], noLeaf[i]); err != nil {
			return nil, err
		}
		s.nodes[i] = node
	}
	if len(members) > 0 {
		return nil, fmt.Errorf("attribute membership_values has more sets than there are nodes of mode %d", branchMember)
	}
	for _, r := range roots {
		ref, err := child(r, 0)
		if err != nil {
			return nil, err
		}
		s.roots = append(s.roots, ref)
	}
	return s, s.check()
}

// forest is a treeSpec for inputs of type T.
type forest[T kernel.Float] struct {
	nodes    []treeNode[T]
	roots    []int32
	sets     [][]T
	starts   []int32 // of each leaf's weights, and their number
	leaves   []forestWeight[T]
	features int
	targets  int
	simple   bool // every node is a BRANCH_LEQ that sends NaN to no
}

type treeNode[T kernel.Float] struct {
	split   T
	feature int32
	yes, no int32 // a node, or ^k for leaf k
	set     int32
	mode    uint8
	missing bool
}

type forestWeight[T kernel.Float] struct {
	target int32
	weight T
}

func newForest[T kernel.Float](s *treeSpec) *forest[T] {
	f := &forest[T]{roots: s.roots, targets: s.targets, simple: true, nodes: make([]treeNode[T], len(s.nodes))}
	for i, n := range s.nodes {
		t := treeNode[T]{split: T(n.split), feature: int32(n.feature), yes: n.yes, no: n.no, mode: uint8(n.mode), missing: n.missing}
		if n.mode == branchMember {
			t.set = int32(len(f.sets))
			set := make([]T, len(n.set))
			for k, v := range n.set {
				set[k] = T(v)
			}
			f.sets = append(f.sets, set)
		}
		f.simple = f.simple && n.mode == branchLEQ && !n.missing
		f.features = max(f.features, int(n.feature)+1)
		f.nodes[i] = t
	}
	for _, l := range s.leaves {
		f.starts = append(f.starts, int32(len(f.leaves)))
		for _, w := range l {
			f.leaves = append(f.leaves, forestWeight[T]{w.target, T(w.weight)})
		}
	}
	f.starts = append(f.starts, int32(len(f.leaves)))
	return f
}

// leaf is where the row x ends in the tree from root.
func (f *forest[T]) leaf(root int32, x []T) int32 {
	at := root
	if f.simple {
		for at >= 0 {
			n := &f.nodes[at]
			if x[n.feature] <= n.split {
				at = n.yes
			} else {
				at = n.no
			}
		}
		return ^at
	}
	for at >= 0 {
		n := &f.nodes[at]
		v := x[n.feature]
		yes := false
		if v != v {
			yes = n.missing
		} else {
			switch n.mode {
			case branchLEQ:
				yes = v <= n.split
			case branchLT:
				yes = v < n.split
			case branchGTE:
				yes = v >= n.split
			case branchGT:
				yes = v > n.split
			case branchEQ:
				yes = v == n.split
			case branchNEQ:
				yes = v != n.split
			case branchMember:
				_, yes = slices.BinarySearch(f.sets[n.set], v)
			}
		}
		if yes {
			at = n.yes
		} else {
			at = n.no
		}
	}
	return ^at
}

// How the weights for one target become its score.
const (
	averageTrees = iota
	sumTrees
	minTrees
	maxTrees
)

// treeBlock is the rows that walk one tree before the next: the tree's nodes stay in the cache.
const treeBlock = 64

// scores is the aggregated weights of each row and target, 0 where no leaf has any, and whether one has.
func (f *forest[T]) scores(c *Ctx, aggregate int) (scores []T, some []bool, rows int, err error) {
	rows, features, err := mlRows(c.In(0))
	if err != nil {
		return nil, nil, 0, err
	}
	if features < f.features && rows > 0 {
		return nil, nil, 0, fmt.Errorf("input 0 has %d features, the trees read %d", features, f.features)
	}
	x, err := floatsOf[T](c, 0)
	if err != nil {
		return nil, nil, 0, err
	}
	st, err := c.New(tensor.TypeOf[T](), rows, f.targets)
	if err != nil {
		return nil, nil, 0, err
	}
	bt, err := c.New(tensor.Bool, rows, f.targets)
	if err != nil {
		return nil, nil, 0, err
	}
	scores, some = tensor.Data[T](st), tensor.Data[bool](bt)
	c.Pool.For(rows, 1+2048/max(1, len(f.roots)), func(lo, hi int) {
		for ; lo < hi; lo += treeBlock {
			end := min(lo+treeBlock, hi)
			for _, root := range f.roots {
				if c.Context.Err() != nil {
					return
				}
				for r := lo; r < end; r++ {
					k := f.leaf(root, x[r*features:(r+1)*features])
					out, seen := scores[r*f.targets:(r+1)*f.targets], some[r*f.targets:(r+1)*f.targets]
					for _, w := range f.leaves[f.starts[k]:f.starts[k+1]] {
						switch {
						case aggregate <= sumTrees:
							out[w.target] += w.weight
						case !seen[w.target], aggregate == minTrees && w.weight < out[w.target], aggregate == maxTrees && w.weight > out[w.target]:
							out[w.target] = w.weight
						}
						seen[w.target] = true
					}
				}
			}
			if aggregate == averageTrees {
				for i := range scores[lo*f.targets : end*f.targets] {
					scores[lo*f.targets+i] /= T(len(f.roots))
				}
			}
		}
	})
	return scores, some, rows, c.Context.Err()
}

// treeKernels are run's kernels in the input's precision, or in float64 if the ensemble is wide. A forest is made when first needed.
func treeKernels(s *treeSpec, f32 func(*forest[float32]) Kernel, f64 func(*forest[float64]) Kernel) Kernel {
	narrow := sync.OnceValue(func() Kernel { return f32(newForest[float32](s)) })
	wide := sync.OnceValue(func() Kernel { return f64(newForest[float64](s)) })
	run := func(k func() Kernel) Kernel { return func(c *Ctx) error { return k()(c) } }
	if s.wide {
		narrow = wide
	}
	return byPrecision(run(narrow), run(wide))
}

func compileTreeRegressor(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	targets, err := treeTargets(a)
	if err != nil {
		return nil, err
	}
	aggregate, post := sumTrees, a.postTransform()
	switch a.choice("aggregate_function", "SUM", "AVERAGE", "MIN", "MAX") {
	case 1:
		aggregate = averageTrees
	case 2:
		aggregate = minTrees
	case 3:
		aggregate = maxTrees
	}
	s, err := readIDTrees(a, "target", targets)
	if err != nil {
		return nil, err
	}
	base := s.numbers(a, "base_values", "base_values_as_tensor")
	if len(base) != 0 && len(base) != targets {
		a.fail("attribute base_values has %d elements for %d targets", len(base), targets)
	}
	if a.err != nil {
		return nil, a.err
	}
	return treeKernels(s, func(f *forest[float32]) Kernel { return regressTrees(f, aggregate, base, post) },
		func(f *forest[float64]) Kernel { return regressTrees(f, aggregate, base, post) }), nil
}

func treeTargets(a *attrs) (int, error) {
	targets := a.int("n_targets", 1)
	if a.err == nil && (targets < 1 || targets > math.MaxInt32) {
		a.fail("attribute n_targets is %d", targets)
	}
	return int(targets), a.err
}

func compileTreeEnsemble(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	targets, err := treeTargets(a)
	if err != nil {
		return nil, err
	}
	aggregate, post := a.int("aggregate_function", sumTrees), a.int("post_transform", 0)
	transforms := []postTransform{noTransform, softmaxTransform, logisticTransform, softmaxZeroTransform, probitTransform}
	if aggregate < 0 || aggregate > maxTrees || post < 0 || post >= int64(len(transforms)) {
		a.fail("attributes aggregate_function %d and post_transform %d: one is not defined", aggregate, post)
	}
	s, err := readArrayTrees(a, targets)
	if err != nil {
		return nil, err
	}
	p := transforms[post]
	k := treeKernels(s, func(f *forest[float32]) Kernel { return regressTrees(f, int(aggregate), nil, p) },
		func(f *forest[float64]) Kernel { return regressTrees(f, int(aggregate), nil, p) })
	return Table{tensor.Float32: k, tensor.Float64: k}.By(0), nil
}

// regressTrees gives the scores themselves, in the output's type.
func regressTrees[T kernel.Float](f *forest[T], aggregate int, base []float64, post postTransform) Kernel {
	return func(c *Ctx) error {
		scores, _, rows, err := f.scores(c, aggregate)
		if err != nil {
			return err
		}
		if len(base) > 0 {
			for i := range scores {
				scores[i] += T(base[i%f.targets])
			}
		}
		if c.Node.Op == "TreeEnsemble" && c.In(0).DType() == tensor.Float64 {
			t, err := c.Alloc(0, tensor.Float64, rows, f.targets)
			if err != nil {
				return err
			}
			z := tensor.Data[float64](t)
			for r := range rows {
				for i := r * f.targets; i < (r+1)*f.targets; i++ {
					z[i] = float64(scores[i])
				}
				transformScores(post, z[r*f.targets:(r+1)*f.targets])
			}
			return nil
		}
		return storeScores(c, 0, scores, rows, f.targets, post)
	}
}

func compileTreeClassifier(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	classes, post := a.labels("classlabels_strings", "classlabels_int64s"), a.postTransform()
	s, err := readIDTrees(a, "class", classes.len())
	if err != nil {
		return nil, err
	}
	m := treeClassifier{classes: classes, post: post, base: s.numbers(a, "base_values", "base_values_as_tensor"), positive: true}
	used := map[int64]bool{}
	for _, id := range a.ints("class_ids") {
		used[id] = true
	}
	for _, l := range s.leaves {
		for _, w := range l {
			m.positive = m.positive && w.weight >= 0
		}
	}
	m.single = classes.len() == 2 && len(used) == 1 && len(m.base) < 2
	m.second = used[1]
	switch {
	case m.single && m.second && len(m.base) == 1, len(m.base) != 0 && len(m.base) != classes.len() && !m.single:
		a.fail("attribute base_values has %d elements for %d classes", len(m.base), classes.len())
	case m.single && !m.second && post == probitTransform:
		a.fail("post_transform PROBIT of the one score of two classes is not supported")
	}
	if a.err != nil {
		return nil, a.err
	}
	return treeKernels(s, func(f *forest[float32]) Kernel { return classifyTrees(f, m) },
		func(f *forest[float64]) Kernel { return classifyTrees(f, m) }), nil
}

type treeClassifier struct {
	classes  labels
	base     []float64
	post     postTransform
	positive bool // no weight is negative
	// single: of two classes only one has weights. It decides by ONNX Runtime's rule: the second class, if the score passes 1/2 where
	// all weights are positive, and 0 where they have signs. Both scores are made of that one, unless it is the second's.
	single, second bool
}

func classifyTrees[T kernel.Float](f *forest[T], m treeClassifier) Kernel {
	return func(c *Ctx) error {
		scores, some, rows, err := f.scores(c, sumTrees)
		if err != nil {
			return err
		}
		width := f.targets
		var z []float32
		if c.Wants(1) {
			t, err := c.Alloc(1, tensor.Float32, rows, width)
			if err != nil {
				return err
			}
			z = tensor.Data[float32](t)
		}
		top := make([]int32, rows)
		threshold := T(0)
		if m.positive {
			threshold = 0.5
		}
		c.Pool.For(rows, 1+2048/width, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				row := scores[r*width : (r+1)*width]
				var out []float32
				if z != nil {
					out = z[r*width : (r+1)*width]
				}
				if m.single && !m.second {
					s := row[0]
					if len(m.base) == 1 {
						s += T(m.base[0])
					}
					if s > threshold {
						top[r] = 1
					}
					if out != nil {
						m.post.pair(out, float32(s), !m.positive)
					}
					continue
				}
				for i, b := range m.base {
					row[i] += T(b)
				}
				switch {
				case m.single:
					if row[1] > threshold {
						top[r] = 1
					}
				case len(m.base) > 0 || width == 2:
					top[r] = topClass(row)
				default: // classes without a vote do not win with 0 over others' negative scores
					best := int32(-1)
					for i, v := range row {
						if some[r*width+i] && (best < 0 || v > row[best]) {
							best = int32(i)
						}
					}
					top[r] = max(best, 0)
				}
				if out != nil {
					for i, v := range row {
						out[i] = float32(v)
					}
					transformScores(m.post, out)
				}
			}
		})
		return m.classes.write(c, top)
	}
}

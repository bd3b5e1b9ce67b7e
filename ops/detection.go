package ops

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/retune-go/retune/tensor"
)

func init() {
	register(Op{Name: "NonMaxSuppression", Since: []int{10, 11}, MinIn: 2, MaxIn: 5,
		Types: []TypeSet{Of(tensor.Float32), Of(tensor.Float32), Of(tensor.Int64), Of(tensor.Float32)},
		Infer: func(n *Node) ([]Info, error) {
			for i := range 2 {
				if in := n.In[i]; in.Ranked && len(in.Shape) != 3 {
					return nil, fmt.Errorf("input %d is of rank %d, not 3", i, len(in.Shape))
				}
			}
			return []Info{Tensor(tensor.Int64, Unknown, D(3))}, nil
		},
		Compile: func(n *Node) (Kernel, error) {
			if v := n.Int("center_point_box", 0); v != 0 && v != 1 {
				return nil, fmt.Errorf("center_point_box %d is neither 0 nor 1", v)
			}
			return nonMaxSuppression, nil
		}, NoGrad: "indices are integers"})
}

// box is a box by its corners; area is 0 where it has none, and such a box suppresses nothing.
type box struct{ x0, y0, x1, y1, area float32 }

// boxOf reads four numbers: two opposite corners y, x, y, x, or the centre x, y and the width and height.
func boxOf(v []float32, center bool) (b box) {
	if center {
		w, h := v[2]/2, v[3]/2
		b = box{x0: v[0] - w, y0: v[1] - h, x1: v[0] + w, y1: v[1] + h}
	} else {
		b = box{x0: min(v[1], v[3]), y0: min(v[0], v[2]), x1: max(v[1], v[3]), y1: max(v[0], v[2])}
	}
	b.area = max(0, b.x1-b.x0) * max(0, b.y1-b.y0)
	return b
}

// overlaps reports whether the intersection of a and b is more than that part of their union.
func (a *box) overlaps(b *box, threshold float32) bool {
	w, h := min(a.x1, b.x1)-max(a.x0, b.x0), min(a.y1, b.y1)-max(a.y0, b.y0)
	if w <= 0 || h <= 0 {
		return false
	}
	both := w * h
	union := a.area + b.area - both
	return both > 0 && a.area > 0 && b.area > 0 && union > 0 && both/union > threshold
}

// nmsLimits is the optional inputs: at most limit boxes for each class, of scores above score where one is given.
func nmsLimits(c *Ctx) (limit int64, iou, score float32, scored bool, err error) {
	for i, what := range []string{2: "max_output_boxes_per_class", 3: "iou_threshold", 4: "score_threshold"} {
		t := c.In(i)
		if what == "" || t == nil || t.Len() == 0 {
			continue
		}
		if t.Len() != 1 {
			return 0, 0, 0, false, fmt.Errorf("%s is of %v, not one number", what, t.Shape())
		}
		switch i {
		case 2:
			limit = tensor.Data[int64](t)[0]
		case 3:
			iou = tensor.Data[float32](t)[0]
		case 4:
			score, scored = tensor.Data[float32](t)[0], true
		}
	}
	if !(iou >= 0 && iou <= 1) {
		err = fmt.Errorf("iou_threshold %v is not between 0 and 1", iou)
	}
	return limit, iou, score, scored, err
}

func nonMaxSuppression(c *Ctx) error {
	boxes, scores := c.In(0), c.In(1)
	if boxes == nil || scores == nil {
		return fmt.Errorf("boxes or scores are not a tensor")
	}
	bs, ss := boxes.Shape(), scores.Shape()
	if len(bs) != 3 || len(ss) != 3 || bs[2] != 4 || bs[0] != ss[0] || bs[1] != ss[2] {
		return fmt.Errorf("boxes of %v do not suit scores of %v", bs, ss)
	}
	limit, iou, threshold, scored, err := nmsLimits(c)
	if err != nil {
		return err
	}
	batches, classes, n := ss[0], ss[1], bs[1]
	var picked [][]int32 // by image and class
	if limit > 0 && scores.Len() > 0 {
		picked = make([][]int32, batches*classes)
		size := int64(batches*n) * 20
		if err := c.Mem.Take(size); err != nil {
			return err
		}
		defer c.Mem.Give(size)
		all := make([]box, batches*n)
		center := c.Node.Int("center_point_box", 0) == 1
		for i := range all {
			all[i] = boxOf(tensor.Data[float32](boxes)[4*i:4*i+4], center)
		}
		data := tensor.Data[float32](scores)
		c.Pool.For(len(picked), 1, func(lo, hi int) {
			var order []int32
			var kept []box
			for i := lo; i < hi; i++ {
				score := data[i*n : (i+1)*n]
				order = order[:0]
				for k, v := range score {
					if !scored || v > threshold {
						order = append(order, int32(k))
					}
				}
				// The best first; NaN is the worst.
				slices.SortFunc(order, func(a, b int32) int {
					return cmp.Or(cmp.Compare(score[b], score[a]), cmp.Compare(a, b))
				})
				kept = suppress(kept[:0], all[i/classes*n:(i/classes+1)*n], order, iou, limit, &picked[i])
			}
		})
	}
	total := 0
	for _, p := range picked {
		total += len(p)
	}
	out, err := c.Alloc(0, tensor.Int64, total, 3)
	if err != nil {
		return err
	}
	y := tensor.Data[int64](out)[:0]
	for i, p := range picked {
		for _, k := range p {
			y = append(y, int64(i/classes), int64(i%classes), int64(k))
		}
	}
	return nil
}

// suppress picks boxes in order, but for those that overlap one picked before, until there are limit. kept is
// working space, which it returns.
func suppress(kept, boxes []box, order []int32, iou float32, limit int64, picked *[]int32) []box {
next:
	for _, k := range order {
		if int64(len(kept)) == limit {
			break
		}
		b := &boxes[k]
		for j := range kept {
			if kept[j].overlaps(b, iou) {
				continue next
			}
		}
		kept, *picked = append(kept, *b), append(*picked, k)
	}
	return kept
}

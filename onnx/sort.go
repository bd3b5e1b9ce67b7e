package onnx

import (
	"container/heap"
	"fmt"
	"slices"
)

// Sort puts g's nodes in topological order, changing as little as it can: where two nodes do not
// hang on each other, the earlier one stays earlier. A cycle is an error that names one of its nodes.
func (g *Graph) Sort() error {
	index := make(map[*Node]int, len(g.Nodes))
	for i, n := range g.Nodes {
		index[n] = i
	}
	waits := make([]int, len(g.Nodes))
	next := make([][]int, len(g.Nodes))
	for i, n := range g.Nodes {
		reads := n.Inputs
		for _, sub := range n.Graphs() {
			reads = append(reads[:len(reads):len(reads)], sub.Captures()...)
		}
		for _, v := range reads {
			if v == nil || v.def == nil {
				continue
			}
			if j, ok := index[v.def]; ok {
				waits[i]++
				next[j] = append(next[j], i)
			}
		}
	}
	ready := &intHeap{}
	for i, w := range waits {
		if w == 0 {
			heap.Push(ready, i)
		}
	}
	sorted := make([]*Node, 0, len(g.Nodes))
	for ready.Len() > 0 {
		i := heap.Pop(ready).(int)
		sorted = append(sorted, g.Nodes[i])
		for _, j := range next[i] {
			if waits[j]--; waits[j] == 0 {
				heap.Push(ready, j)
			}
		}
	}
	if len(sorted) < len(g.Nodes) {
		// Each node that waits has one before it that waits: going back, some node comes again.
		before := map[int]int{}
		for i, w := range waits {
			for _, j := range next[i] {
				if w > 0 && waits[j] > 0 {
					before[j] = i
				}
			}
		}
		i := slices.IndexFunc(waits, func(w int) bool { return w > 0 })
		for seen := map[int]bool{}; !seen[i]; i = before[i] {
			seen[i] = true
		}
		n := g.Nodes[i]
		return fmt.Errorf("graph %q: node %q (%s) is part of a cycle", g.Name, n.Name, n.Op)
	}
	g.Nodes = sorted
	return nil
}

type intHeap []int

func (h intHeap) Len() int           { return len(h) }
func (h intHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h intHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *intHeap) Push(x any)        { *h = append(*h, x.(int)) }
func (h *intHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

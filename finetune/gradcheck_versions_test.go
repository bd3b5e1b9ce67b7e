package finetune

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/ops"
)

// TestGradientsOfEveryVersion has every version, from the first opset on, of every operator that has a gradient be differentiated and held against
// differences, and its gradient written in standard operators: where no case is of that version, in the first one that is the operator's there too.
func TestGradientsOfEveryVersion(t *testing.T) {
	cases := map[string][]*gradCase{}
	for _, c := range gradCases() {
		if c.refused != "" {
			continue
		}
		used := []string{c.op}
		if c.graph != nil {
			used = strings.Fields(c.op)
		}
		for _, name := range used {
			cases[c.domain+" "+name] = append(cases[c.domain+" "+name], c)
		}
	}
	for _, op := range ops.All() {
		if op.Domain == ops.Internal || op.Grad == nil && op.Expand == nil || strings.HasPrefix(op.Name, "Q") || op.Name == "NhwcMaxPool" || op.Name == "MatMulInteger16" { // bytes: by way of operators that have cases
			continue
		}
		of := cases[op.Domain+" "+op.Name]
		if op.Name == "DynamicQuantizeMatMul" { // as above
			continue
		}
		for _, since := range op.Since {
			if slices.ContainsFunc(of, func(c *gradCase) bool {
				_, was := ops.Lookup(c.domain, op.Name, int(c.opset))
				return was == since
			}) { // the other tests have it
				continue
			}
			t.Run(fmt.Sprintf("%s%s-%d", op.Domain, op.Name, since), func(t *testing.T) {
				t.Parallel()
				var unheld error
				for _, c := range of {
					at := *c
					at.opset = int64(since)
					if !at.check(t, 2, true) {
						continue
					}
					if unheld = at.portable(t); unheld == nil {
						return
					}
				}
				if unheld == nil || !unwritten(unheld) {
					t.Error("no case is this version's: ", unheld)
				}
			})
		}
	}
}

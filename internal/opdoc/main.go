// Command opdoc writes the table of operators that docs/operators.md is.
package main

//go:generate go run . ../../docs/operators.md

import (
	"fmt"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/tensor"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: opdoc FILE")
	}
	if err := os.WriteFile(os.Args[1], []byte(page()), 0o644); err != nil {
		log.Fatal(err)
	}
}

const preamble = `# Operators

Generated from the registry by ` + "`make generate`" + `; do not edit.

*Opsets* are those at which the definition changed; what is listed is handled, and so is every opset after it until the next. *Element types* are
those of the inputs in order, the last standing for further ones too. *floats* are float16, bfloat16, float and double; *signed* and *unsigned* the integers
of 8 to 64 bits; *numbers* all of these; *any* all that the standard has. *Gradient* tells whether an operator can be trained through: *zero* is that of an output
that is constant almost everywhere. *Straight through* is an estimate that is made on request.
`

// page is the whole of docs/operators.md.
func page() string {
	var b strings.Builder
	b.WriteString(preamble)
	rows := ops.All()
	for len(rows) > 0 {
		domain := rows[0].Domain
		n := slices.IndexFunc(rows, func(op *ops.Op) bool { return op.Domain != domain })
		if n < 0 {
			n = len(rows)
		}
		if domain != ops.Internal {
			writeDomain(&b, domain, rows[:n])
		}
		rows = rows[n:]
	}
	return b.String()
}

func writeDomain(b *strings.Builder, domain string, rows []*ops.Op) {
	if domain == "" {
		domain = "ai.onnx"
	}
	names := map[string]bool{}
	for _, op := range rows {
		names[op.Name] = true
	}
	fmt.Fprintf(b, "\n## %s\n\n%d operators.\n\n| operator | opsets | element types | gradient |\n| --- | --- | --- | --- |\n", domain, len(names))
	for _, op := range rows {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", op.Name, strings.Trim(fmt.Sprint(op.Since), "[]"), types(op), gradient(op))
	}
}

func gradient(op *ops.Op) string {
	switch {
	case op.Grad != nil:
		return "yes"
	case op.Expand != nil:
		return "yes, through its expansion"
	case op.Flat && op.Estimate != nil:
		return "zero, or straight through"
	case op.Flat:
		return "zero"
	case op.Estimate != nil:
		return "straight through alone: " + op.NoGrad
	}
	return "none: " + op.NoGrad
}

func types(op *ops.Op) string {
	if op.Expand != nil && len(op.Types) == 0 {
		return "its expansion's"
	}
	if len(op.Types) == 0 {
		return "any"
	}
	sets := make([]string, len(op.Types))
	for i, set := range op.Types {
		sets[i] = setName(set)
	}
	for n := len(sets); n > 1 && sets[n-1] == sets[n-2]; n-- {
		sets = sets[:n-1]
	}
	return strings.Join(sets, "; ")
}

// setName lists the types of a set, with names for the groups that are in it as a whole.
func setName(set ops.TypeSet) string {
	if set == 0 {
		return "any"
	}
	var parts []string
	for _, group := range []struct {
		name string
		set  ops.TypeSet
	}{{"numbers", ops.Numeric}, {"floats", ops.Floats}, {"signed", ops.Signed}, {"unsigned", ops.Unsigned}} {
		if set&group.set == group.set {
			parts = append(parts, group.name)
			set &^= group.set
		}
	}
	for d := tensor.Undefined + 1; d.Valid(); d++ {
		if set != 0 && set.Has(d) {
			parts = append(parts, d.String())
		}
	}
	return strings.Join(parts, ", ")
}

//go:build !noasm

package kernel

import "golang.org/x/sys/cpu"

func detect() level {
	x := &cpu.X86
	switch {
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasBMI2:
		return levelAVX512
	case x.HasAVX2 && x.HasFMA && x.HasF16C:
		return levelAVX2
	}
	return levelGo
}

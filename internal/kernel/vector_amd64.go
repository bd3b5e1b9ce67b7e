//go:build !noasm

package kernel

var vectorLevels [numLevels]vectorKernels

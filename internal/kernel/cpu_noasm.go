//go:build noasm || !amd64

package kernel

func detect() level { return levelGo }

var vectorLevels [numLevels]vectorKernels

var gemmLevels = [numLevels]gemmKernels{gemmGo, gemmGo, gemmGo}

var igemmLevels = [numLevels]*igemmKernel{igemmGo, igemmGo, igemmGo}

var blockLevels = [numLevels]blockKernels{blockGo, blockGo, blockGo}

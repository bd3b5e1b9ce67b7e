package kernel

import "syscall"

// preferHugePages asks for large pages at addresses [first, end), multiples of their size. Of those that are in use already the contents
// move, whosever they are; what the system will not do stays as it was.
func preferHugePages(first, end uintptr) {
	const collapse = 25 // MADV_COLLAPSE, of Linux 6.1
	syscall.Syscall(syscall.SYS_MADVISE, first, end-first, syscall.MADV_HUGEPAGE)
	for ; first < end; first += hugePage {
		syscall.Syscall(syscall.SYS_MADVISE, first, hugePage, collapse)
	}
}

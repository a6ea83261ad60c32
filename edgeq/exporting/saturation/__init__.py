"""Where x86 CPUs without VNNI cut sums off: which engines' kernels do it, and in which layers of a file."""

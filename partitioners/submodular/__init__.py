"""RCD-SGD: submodular greedy partitioning, its kernels and features."""

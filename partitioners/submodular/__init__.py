"""RCD-SGD: partitioning by greedy submodular maximisation, with its kernels and features."""

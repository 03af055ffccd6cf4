"""Kernels for GPUs. Import a module only where there is a GPU: Triton comes with PyTorch's builds for GPUs alone."""

"""The CUDA driver, its compiler, and what a GPU is doing."""

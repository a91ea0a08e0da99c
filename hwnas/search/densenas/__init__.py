"""DenseNAS (arXiv 1906.09607): networks derived from a dense super-network."""

"""Training of DenseNAS's super-network."""

"""The spaces of DenseNAS."""

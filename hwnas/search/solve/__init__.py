"""What strategies share to choose exactly: paths, distributions, and scores without training."""

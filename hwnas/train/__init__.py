"""Training: data in memory, augmentation on tensors, one loop."""

"""Efficient Global NAS (arXiv 2502.03553): macro, then micro."""

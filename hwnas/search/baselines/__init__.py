"""Baselines: uniform scaling, random search, tree-structured Parzen estimators."""

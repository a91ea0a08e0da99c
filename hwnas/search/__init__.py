"""Searching: one driver, many strategies."""

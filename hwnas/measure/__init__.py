"""Measuring: who the device is, the only timing statistics, the sweep, the latency table."""

"""Predicting: from a latency table to the latency of any network, with an interval."""

"""Deploying: engines with a manifest beside them, and the proof that they keep their promise."""

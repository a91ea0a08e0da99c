"""Runtimes behind one door: each builds an engine from ONNX, runs it and times it on its own clock."""

"""Networks: block kinds, search spaces, counting, and the two builders (torch and ONNX)."""

"""ONNX graphs: exported from PyTorch, quantised, and run."""

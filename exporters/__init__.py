"""Trained network -> ONNX file with its description, and the gate that compares the two."""

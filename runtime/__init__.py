"""The runtime: numpy, ONNX Runtime and tokenizers, and nothing of the rest of this house."""

"""onnxgpt beside other runtimes, on the same weights: see benchmarks/README.md."""

"""What `onnxgpt doctor` finds out: whether this machine, its packages and its caches are as they should be."""

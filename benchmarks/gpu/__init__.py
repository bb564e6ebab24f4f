"""Decoding on a GPU beside PyTorch, and beside what the device's memory allows."""

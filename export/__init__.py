"""PyTorch to bundle. Importing this package loads no torch; `export_bundle` does."""

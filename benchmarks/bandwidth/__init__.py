"""Memory bandwidth, and how near to it a bundle decodes: see benchmarks/README.md."""

"""Benchmarks that users can run too: `vecmeta bench …`."""

"""What the benchmarks stand on; each ``python -m benchmarks.NAME`` is a command above it."""

"""What is faster, smaller, more faithful, and by how much: one command each, results as JSON."""

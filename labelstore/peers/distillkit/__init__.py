"""DistillKit's label files."""

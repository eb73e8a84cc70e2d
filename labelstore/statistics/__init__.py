"""What labels say, in numbers: sums over blocks of labels. NumPy alone, no files."""

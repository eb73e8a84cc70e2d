"""What ``labelstore generate`` asks of the library: labels, growth, a fitted temperature."""

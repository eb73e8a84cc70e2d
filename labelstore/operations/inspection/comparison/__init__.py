"""What `compare` stands on: what can be compared, the labels side by side, and the page."""

"""The commands that look at labels and photos, one a file."""

"""What looks at all labels before the first epoch: told of while it runs, and kept for others."""

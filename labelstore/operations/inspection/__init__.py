"""What the commands that look at labels and photos do, one module a command of the same name."""

"""What each command does, one module a command of the same name."""

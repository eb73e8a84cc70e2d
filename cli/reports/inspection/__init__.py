"""How the results of the commands that look are shown, one a file."""

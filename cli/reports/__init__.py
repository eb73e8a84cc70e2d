"""How long results look."""

"""Stores that grow into new ones: what is taken over, what is made, and both in one block."""

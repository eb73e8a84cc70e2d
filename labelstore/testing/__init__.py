"""Fault injection for tests of stores and of back ends."""

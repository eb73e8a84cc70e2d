"""Stores behind URLs: what is asked of servers, and who may write."""

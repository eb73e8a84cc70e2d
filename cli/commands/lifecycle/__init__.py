"""The commands of a store's life after it was made."""

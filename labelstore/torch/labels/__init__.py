"""Labels as tensors, and their recovery on a device."""

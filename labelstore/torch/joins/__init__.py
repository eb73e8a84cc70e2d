"""Labels joined by key to photos that come from a pipeline of another library."""

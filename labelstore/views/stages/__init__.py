"""What a view is after crop and mirror: stages, each a pure function of draws of its own."""

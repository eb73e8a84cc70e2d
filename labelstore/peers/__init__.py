"""Other projects' soft-label files: read as their own code reads them, never executed."""

"""Data files: the manifest's JSON Schema and SPEC.md, the store format on a page."""

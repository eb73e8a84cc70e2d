"""Labels of a store as files that other projects' training code reads."""

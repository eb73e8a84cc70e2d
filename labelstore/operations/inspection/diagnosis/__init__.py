"""What ``doctor`` looks at: photos of other data, and slower ways that are taken without a word."""

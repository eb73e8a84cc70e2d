"""SRe2L's and LPLD's label files."""

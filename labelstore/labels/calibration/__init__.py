"""What FerKD's rule is made of: its thresholds, those that fit classes, the labels it makes."""

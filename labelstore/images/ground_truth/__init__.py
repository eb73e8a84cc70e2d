"""Ground truth: which of the teacher's classes each image belongs to, never a guess."""

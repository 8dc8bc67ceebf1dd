"""What is decided before anything is trained: the plan on disk, the variants, the cost."""

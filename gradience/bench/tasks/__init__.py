"""Tasks: what is asked, what counts as right, and which examples play which role. One file each."""

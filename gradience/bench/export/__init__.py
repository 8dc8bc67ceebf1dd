"""The results of a run in the formats that others read. Files are written, and nothing is uploaded."""

"""The base class, blocks and renderers of all reports, and parts that several models share."""

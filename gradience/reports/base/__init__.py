"""What every report shares: its base class, blocks, renderers, and parts of several models."""

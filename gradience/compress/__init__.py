"""An adapter and a plan -> the smaller adapter on disk, with the error of what was stored."""

"""An adapter and a plan -> the smaller adapter on disk, with the error of the stored factors."""

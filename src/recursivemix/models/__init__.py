"""Networks: the small-image networks of the paper, and the region head that any backbone can carry."""

SMALL_IMAGE = 64
"""Largest side in pixels of a small image; networks for small images keep their resolution in the stem."""

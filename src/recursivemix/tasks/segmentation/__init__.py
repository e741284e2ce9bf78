"""A class at every pixel: segmenters on a backbone, and the overlap of regions."""

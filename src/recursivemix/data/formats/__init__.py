"""One source of images per file."""

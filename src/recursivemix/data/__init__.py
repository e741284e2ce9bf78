"""Data sets, their formats, and the batches made from them."""

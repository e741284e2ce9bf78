"""Who predicts: the region head that any backbone can wear, and the paper's small networks."""

"""Measurements of a checkpoint: one probe per file, and the registry of probes."""

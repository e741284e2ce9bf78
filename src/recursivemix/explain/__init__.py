"""Pictures: what was mixed."""

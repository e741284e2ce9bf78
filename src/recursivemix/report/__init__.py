"""Statistics over seeds, tables, plots, pictures and pages."""

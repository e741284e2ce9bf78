"""Compare methods: the grid of runs, how they are executed, collected and answered."""

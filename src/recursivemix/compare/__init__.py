"""Methods against each other: the grid of runs, who runs them, what follows from them, and the page."""

"""One training run, whatever its task: settings, preparation, fitting, record and checkpoints."""

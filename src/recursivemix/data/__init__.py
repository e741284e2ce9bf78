"""Where batches come from: data that ships with a dependency, and folders of images."""

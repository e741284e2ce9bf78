"""One data format per module; `recursivemix.data.names` registers them."""

"""Ways to store a tensor, each a codec of a chain."""

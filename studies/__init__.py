"""Questions that are answered by training many networks."""

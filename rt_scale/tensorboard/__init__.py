"""TensorBoard: a run's curves, the view of a sweep, and the server."""

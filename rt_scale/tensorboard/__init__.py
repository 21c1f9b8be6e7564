"""TensorBoard: the curves of runs, the view of a sweep, and the server."""

"""A report in the browser that follows its runs."""

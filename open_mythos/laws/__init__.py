"""What loops, data and parameters are worth: published laws, and their constants from points."""

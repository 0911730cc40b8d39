"""Other libraries doing comparable work, each behind the same three calls."""

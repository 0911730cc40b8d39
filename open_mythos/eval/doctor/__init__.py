"""What a trained loop does and what is wrong with it: measured first, judged from numbers alone."""

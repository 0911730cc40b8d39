"""A pretrained transformer becomes a looped one: which layers loop, and how the loop begins."""

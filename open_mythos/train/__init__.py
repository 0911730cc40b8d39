"""Batches to weights: recipes, pure policies of the step number, one step, and the outer loop."""

"""Weights to numbers: perplexity, task accuracy, score against loops, and what halting did."""

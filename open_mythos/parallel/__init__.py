"""How a model is run, applied from outside: divided over ranks, recomputed, compiled."""

"""How a model is run, applied from outside and in one place: checkpointing, compilation."""

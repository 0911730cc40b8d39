"""Logits to tokens, for one batch of prompts: sampling as pure functions, and the decode loop."""

"""At home in transformers: config, model, cache, tokenizer and card, and code for the hub."""

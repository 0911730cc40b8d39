"""From text and tasks to batches: tokenizers, corpora, windows, problems of known depth."""

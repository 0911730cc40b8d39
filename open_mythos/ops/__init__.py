"""Mathematics with more than one implementation: a plain definition, and faster twins of it."""

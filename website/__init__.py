"""What the documentation site makes while it is built: results, mathematics, the notebook."""

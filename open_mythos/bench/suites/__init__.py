"""What is measured: every suite turns a setting into cases, and knows nothing of files."""

"""Time, memory and accuracy on the machine at hand, beside floors and other libraries."""

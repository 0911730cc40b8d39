"""When a position may stop looping: criteria with one threshold each, by name."""

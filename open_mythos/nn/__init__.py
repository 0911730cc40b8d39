"""Layers: one device, no training, no files; the loop, which all this is about, has a folder."""

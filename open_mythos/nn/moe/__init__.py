"""Mixture of experts: how picks are kept even (balance), and the layer."""

"""Mixture of experts: who is picked (router), how picks are kept even (balance), and the layer."""

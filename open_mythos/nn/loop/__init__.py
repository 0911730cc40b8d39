"""Recurrent depth, one block run again and again: its injection, halting, readout and adapter."""

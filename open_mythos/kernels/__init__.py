"""Triton kernels: what `ops` runs on a GPU in place of its plain definitions; never needed."""

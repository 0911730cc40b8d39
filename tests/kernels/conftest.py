"""Kernels are tested where Triton is installed: on the GPU if there is one, else interpreted."""

from importlib.util import find_spec


collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]

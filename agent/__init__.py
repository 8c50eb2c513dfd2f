"""WarmSlice: one agent per GPU node. The flow is desired -> observe -> plan -> execute -> report."""

VERSION = "0.1.0"
"""That of pyproject.toml. To ask the installed package costs a megabyte in each process."""

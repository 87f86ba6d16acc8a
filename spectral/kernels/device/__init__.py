"""The kernels on whole arrays: the same results to rounding, in NumPy's terms alone, for a GPU.

Each function takes its array library from its arrays or as `xp`: CuPy on a GPU. Every one is tested under
NumPy against the Numba kernel it stands in for.
"""

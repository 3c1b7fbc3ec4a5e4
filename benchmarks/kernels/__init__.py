"""The kernels, each beside its peers in one run: `python -m benchmarks.kernels`."""

"""How fast the project is beside a reference, each on synthetic data: `python -m benchmarks.<name> [--quick]`."""

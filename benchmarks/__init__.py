"""What is claimed about speed and memory, measured: `python -m benchmarks.<name> [--quick]`.

Each script makes its own data, measures the project beside a reference in one run, and prints `name: value` lines with
units in the name, the ratio last. With --quick it ends in under 50 seconds.
"""

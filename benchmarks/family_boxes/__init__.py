"""References of `benchmarks.families`: one file per package, each in an environment of its own."""

"""What layers cost in an engine: shapes of kernels, tables of their times, and the cheapest choice of INT8 layers."""

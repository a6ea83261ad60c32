"""Scripts that a device's own python3 runs before it has anything of ours, so they import nothing but its library.

Their source goes over as an argument.
"""

"""The command line: `app` parses, calls and prints; one module per group of commands, and how tables look."""

"""The verbs: one module a command. Plain functions that take paths and return dataclasses; printing is the CLI's."""

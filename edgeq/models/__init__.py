"""The torch model zoo. The only package that imports torch at module level, so import it inside functions."""

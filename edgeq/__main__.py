"""`python -m edgeq`: the same as the command `edgeq`."""

from edgeq.cli.app import main

if __name__ == "__main__":
    main()

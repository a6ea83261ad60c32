"""Other machines: reached by ssh, given what they need to run files.

A device needs sshd, sh and python3; neither pip nor torch nor a compiler.
"""

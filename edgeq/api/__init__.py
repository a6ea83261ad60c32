"""The functions that `import edgeq` offers: the commands' words, for programs.

They take what a program holds (a torch module, arrays, results) where the commands take files. What an option is called
on the command line, its parameter is called here, and it has the same default.
"""

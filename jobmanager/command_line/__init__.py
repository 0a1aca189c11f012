"""The commands of the command line, a file for each: arguments in, tables or JSON out. ``cli.py`` has the group of all."""

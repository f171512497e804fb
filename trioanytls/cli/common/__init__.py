"""Shared by several commands: option types, the configuration file, secrets, the log, errors and exit codes.

It imports nothing of the commands.
"""

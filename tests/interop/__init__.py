"""Tests with the real sing-box at either end, and of restarts under load.

`nox -s interop` runs them, and the usual run of the tests does not.
"""

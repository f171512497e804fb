"""Tests with the real sing-box, at either end: `nox -s interop` runs them, and the usual run of the tests does not."""

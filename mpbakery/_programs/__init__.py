"""The commands behind `python3 -m mpbakery`, and what they print and write. They use the package as anybody would."""

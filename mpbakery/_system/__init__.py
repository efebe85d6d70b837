"""What differs from machine to machine: shared memory and its layout, fences, parking, record locks, who is alive.

Nothing here knows what a lock is. It imports the standard library and `_errors`; tests of the platform stand here only.
"""

"""Seeing inside a running program: from outside, which it does not notice, or from inside of it.

It reads shared memory by the names in `_system.layout`, and believes nothing that stands there. It takes no lock, needs
no slot, and writes to no memory; nothing that works imports it.
"""

"""The algorithms: how slots are claimed, who is served when, how one waits, and what a death means.

They see memory, processes and time only as `interfaces` says, so that the same code runs over the real machine and
over a simulation of it. From `_system` they take the names of words, and types.
"""

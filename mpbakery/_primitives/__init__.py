"""`Lock` to `Barrier` as multiprocessing has them: arguments, pickling, what forking does, what a lock tells of itself.

They put the algorithms of `_protocol` onto the machine of `_system`.
"""

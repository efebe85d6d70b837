"""The pool, whose workers may die: it gives each of them one task at a time, through pipes of its own."""

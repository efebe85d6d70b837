"""Which words of memory are shared at all: what a search need not try in every order."""

from __future__ import annotations


class Sharing:
    """Which process was ever seen to load and to store which word, in all executions of a search.

    A load of a word that nobody else stores, and a store to one that nobody else touches, make no difference to
    others, so the order of them need not be tried. That is taken for granted until the contrary is seen; then `stale`
    is set, and the search has to begin once more, with what is known now.
    """

    def __init__(self, *, everything: bool = False) -> None:
        #: whether to take every word for shared
        self.everything = everything
        self._loaded: dict[int, int] = {}
        self._stored: dict[int, int] = {}
        self.stale = False

    def is_read_by_chance(self, process: int, word: int) -> bool:
        """Whether what a process loads there depends on when it does."""
        return self.everything or bool(self._stored.get(word, 0) & ~(1 << process))

    def is_written_to_others(self, process: int, word: int) -> bool:
        """Whether others notice when a process stores there."""
        seen = self._stored.get(word, 0) | self._loaded.get(word, 0)
        return self.everything or bool(seen & ~(1 << process))

    def note_load(self, process: int, word: int) -> None:
        """A process loads the word."""
        if self._note(self._loaded, process, word) and self._stored.get(word, 0) & ~(1 << process):
            self.stale = True

    def note_store(self, process: int, word: int) -> None:
        """A process stores to the word."""
        if self._note(self._stored, process, word) and self.is_written_to_others(process, word):
            self.stale = True

    @staticmethod
    def _note(seen: dict[int, int], process: int, word: int) -> bool:
        """Whether that is new."""
        before = seen.get(word, 0)
        seen[word] = before | 1 << process
        return before != seen[word]

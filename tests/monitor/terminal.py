"""A terminal just large enough for a test: two screens, a cursor, and the sequences that our output uses."""

from __future__ import annotations

import re

SEQUENCE = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])")


class Terminal:
    """Feed it what a program wrote; `main` (with everything that scrolled away) and `other` are what one sees."""

    def __init__(self, rows):
        self.rows = rows
        self.main, self.other = [""], [""]
        self.on_other, self.row, self.column = False, 0, 0
        self.left = ""

    @property
    def screen(self):
        return self.other if self.on_other else self.main

    def feed(self, text):
        text, position = self.left + text, 0
        self.left = ""
        while position < len(text):
            if text[position] == "\x1b":
                match = SEQUENCE.match(text, position)
                if match is None:  # its end has not arrived
                    self.left = text[position:]
                    return
                self._sequence(*match.groups())
                position = match.end()
            else:
                self._write(text[position])
                position += 1

    def _sequence(self, private, numbers, letter):
        if private and numbers == "1049":
            self.on_other = letter == "h"
            if self.on_other:
                self.saved, self.other = (self.row, self.column), [""]
                self.row = self.column = 0
            else:
                self.row, self.column = self.saved
        elif letter == "H":
            assert not numbers
            self.row = self.column = 0
        elif letter == "K":
            self.screen[self.row] = self.screen[self.row][: self.column]
        elif letter == "J":
            assert not numbers
            self.screen[self.row] = self.screen[self.row][: self.column]
            del self.screen[self.row + 1 :]
        else:
            assert letter == "m" or (private and numbers in ("25", "7")), (private, numbers, letter)

    def _write(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
            if self.row == len(self.screen):
                self.screen.append("")
            assert not self.on_other or len(self.other) <= self.rows, "the other screen scrolled"
        else:
            line = self.screen[self.row].ljust(self.column)
            self.screen[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

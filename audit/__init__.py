"""Judges what the joiner made: a plain join of the recorded topics, compared row by row with the examples topic."""

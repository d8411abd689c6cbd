"""The embedded world: coloured shapes, small enough for a laptop, with everything that a real one has."""

"""The embedded world: coloured shapes, small enough for a laptop, nothing left out."""

"""Analysis: numbers in, numbers out."""

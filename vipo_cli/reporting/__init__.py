"""Reporting: what an evaluation found, for people to look at."""

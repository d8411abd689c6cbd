"""Evaluation: pictures from a model, judged, with honest intervals."""

"""Visual preference optimisation for image and video generators."""

__version__ = "0.1.0"

"""Scores of a model: what it has learned, and what it has forgotten."""

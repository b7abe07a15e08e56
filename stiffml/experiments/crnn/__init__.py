"""Reactions found from data alone, by chemical reaction neural networks."""

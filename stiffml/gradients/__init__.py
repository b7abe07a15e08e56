"""Backwards and along: the reverse sweep, tangents, second derivatives, and where torch comes in."""

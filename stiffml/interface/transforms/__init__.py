"""Solves within the transforms of ``torch.func``, ``torch.vmap`` and forward-mode differentiation."""

"""Checks of the initial state, and its layout as one flat vector."""

from __future__ import annotations

import torch
from torch import Tensor

from stiffml.checks import described, whole, with_numbers
from stiffml.system.state import Layout, State


def checked_layout(y0: State, batch_dims: int) -> Layout:
    """The layout of a state that holds finite real numbers; TypeError or ValueError for any other."""
    parts = y0 if isinstance(y0, tuple) else (y0,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"y0 must be a tensor or a tuple of tensors, not {described(y0)}")
    for position, part in enumerate(parts):
        with_numbers(f"y0[{position}]" if isinstance(y0, tuple) else "y0", part)
    dtypes = {part.dtype for part in parts}
    if len(dtypes) > 1 or dtypes - {torch.float64, torch.float32}:
        is_half = bool(dtypes & {torch.float16, torch.bfloat16})
        single = ", and a func in float32: half precision resolves no step" if is_half else ""
        raise TypeError(
            "y0 must be float64 or float32 throughout, or complex numbers of these, not "
            f"{', '.join(sorted(map(str, dtypes)))}. Try: y0.float(){single}"
        )
    devices = {part.device for part in parts}
    if len(devices) > 1:
        raise ValueError(f"y0 must be on one device, not on {', '.join(sorted(map(str, devices)))}")
    if any(part.numel() == 0 for part in parts):
        raise ValueError("y0 is empty")
    least = min(part.dim() for part in parts)
    batch_dims = whole("batch_dims", batch_dims, least=0)
    if not 0 <= batch_dims <= least:
        raise ValueError(f"batch_dims must lie between 0 and y0's {least} dimensions, not {batch_dims}")
    if len({part.shape[:batch_dims] for part in parts}) > 1:
        raise ValueError("y0: all tensors of a tuple must share the leading batch_dims dimensions")
    layout = Layout.of(y0, batch_dims)
    with torch.no_grad():
        finite = torch.isfinite(layout.flatten(y0))
    if not finite.all():
        where = layout.component(int(finite.int().argmin()))
        raise ValueError(f"y0 is not finite at component {list(where)}")
    return layout

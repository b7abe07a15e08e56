"""``scipy_solver``: the methods of scipy.integrate.solve_ivp, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from stiffml.compat.torchdiffeq.call import Call, Taken, split_like


@torch.no_grad()
def by_scipy(call: Call) -> Taken:
    """The solution at the times of a call, without a graph."""
    from scipy.integrate import solve_ivp  # slow to import

    leaves, spec = tree_flatten(call.y0)

    def flat(tree: Any) -> np.ndarray:
        return torch.cat([leaf.detach().cpu().reshape(-1) for leaf in spec.flatten_up_to(tree)]).numpy()

    def tree(values: np.ndarray) -> Any:
        return tree_unflatten(split_like(torch.from_numpy(np.ascontiguousarray(values)), leaves), spec)

    options = {name: call.options[name] for name in ("min_step", "max_step") if name in call.options}
    solver = call.options.get("solver", "LSODA")
    if solver != "LSODA":
        options.pop("min_step", None)  # which the others do not have
    t = call.t.detach().cpu().numpy()
    found = solve_ivp(
        lambda s, y: flat(call.func(call.time(float(s)), tree(y))),
        (t[0], t[-1]),
        flat(call.y0),
        method=solver,
        t_eval=t,
        rtol=float(call.rtol),
        atol=float(call.atol),
        **options,
    )
    if not found.success:
        raise RuntimeError(f"scipy_solver: {solver}: {found.message}")
    y = tree(found.y.T)
    return Taken(y, call.t.detach(), lambda: y)

"""
A million unknowns
==================

An implicit step solves a linear system with the Jacobian. With ten unknowns nobody notices, with a thousand
it is most of the time, and with a million the Jacobian, written out, would take eight terabytes. This
tutorial climbs a ladder: dense, sparse, Krylov, preconditioned. Each rung is timed *with its gradient*, as
that is what a training pays for.

After this you will be able to

* choose ``linear=`` and ``jacobian=`` for a field, and say up to which size each choice serves;
* write a preconditioner of your own, and see by counts of iterations whether it is any good;
* bound the memory of a backward pass;
* run the same script on several processes, and tell what a large run costs before you start it.

You need torch, matplotlib and a little linear algebra. The whole of it takes about three quarters of a minute
on one core; the largest fields are stored runs. Nothing in it is random but the weights of the stored runs,
of seed 0.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import problems
import stiffml
from stiffml import GMRES, LU, Assembled, Discrete, Disk

QUICK = os.environ.get("STIFFML_TUTORIALS") == "quick"  # smaller sizes, for a first look
torch.set_num_threads(1)  # one core, so that times can be compared
plt.style.use(Path(__file__).with_name("stiffml.mplstyle"))
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"

T_END = 0.1 if QUICK else 1.0
# Points along an axis of the square; there are 2 n² unknowns.
SIZES = {
    "dense": [6, 10] if QUICK else [6, 8, 11, 16],
    "sparse": [6, 12] if QUICK else [8, 16, 32, 64],
    "Krylov": [8, 32] if QUICK else [8, 16, 32, 64, 128],
    "multigrid": [8, 32] if QUICK else [8, 16, 32, 64, 128],
    "Fourier": [8, 32] if QUICK else [8, 16, 32, 64, 128],
}

# %%
# A field
# -------
#
# The Brusselator is two reactions that oscillate, here at every point of a periodic square, with diffusion:
# u_t = 1 + u² v − (B + 1) u + α Δu and v_t = B u − u² v + α Δv, without units, on n × n points. Diffusion
# makes it stiff: the fastest wave decays at a rate of 8 α n², which is 13 000 for n = 128, while the reaction
# takes times of order 1. We follow it to t = 1.


def brusselator(n):
    return problems.load("brusselator", size=n)


t = torch.tensor([0.0, T_END], dtype=torch.float64)
with torch.no_grad():
    problem = brusselator(32)
    field = problem.solve(torch.tensor([0.0, 0.02, T_END], dtype=torch.float64), method="bdf3", rtol=1e-4).y
figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.0))
for panel, u, when in zip(panels, field[:, 0], (0, 0.02, T_END), strict=True):
    image = panel.imshow(u, origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
    figure.colorbar(image, ax=panel, shrink=0.8)
    panel.grid(visible=False)
    panel.set(title=f"u at t = {when:g}", xlabel="y", ylabel="x")
plt.show()

# %%
# What is in the Jacobian
# -----------------------
#
# Each unknown depends on itself, on its four neighbours and on the other species at its point: six entries in
# a row, whatever n.

problem = brusselator(8)
func, y0 = problem.func(), torch.from_numpy(problem.y0) + 1  # nowhere 0, where an entry would vanish
jacobian = torch.func.jacrev(lambda flat: func(t[0], flat.view(2, 8, 8)).flatten())(y0.flatten()).detach()
figure, panel = plt.subplots(figsize=(3.8, 3.8))
panel.spy(jacobian.numpy(), markersize=1.5, color="C0")
panel.grid(visible=False)
panel.set(title="entries that are not zero, n = 8", xlabel="unknown", ylabel="equation")
plt.show()
entries = int((jacobian != 0).sum())
print(f"{entries} of {jacobian.numel()} entries; of a million unknowns: {6e6 * 12 / 1e6:.0f} MB, not 8 TB")
assert entries == 6 * 128

# %%
# The first two rungs: dense and sparse
# -------------------------------------
#
# ``LU()`` factorises shift · 1 − J. With ``jacobian="dense"`` that costs memory like N² and time like N³.
# With ``"coloured"``, the entries that there are come from a dozen products of J with vectors, and the
# factorisation is sparse. What we time is a solve and its gradient by α, by B and by the whole initial field.


def measured(n, linear, jacobian):
    problem = brusselator(n)
    func, y0 = problem.func("alpha", "B"), torch.from_numpy(problem.y0).requires_grad_()
    began = time.process_time()
    sol = stiffml.solve(
        func, y0, t, method="bdf3", rtol=1e-4, atol=1e-7, linear=linear(problem), jacobian=jacobian
    )
    middle = time.process_time()
    sol.y[-1].square().mean().backward()
    ended = time.process_time()
    return {
        "unknowns": 2 * n**2,
        "forward": middle - began,
        "backward": ended - middle,
        "iterations": sol.stats.krylov_iterations / sol.stats.newton_iterations,
        "backwards": sol.stats.adjoint.krylov_iterations / sol.stats.accepted,
        "gradient": torch.stack([func.alpha.grad, func.B.grad]),
        "field": y0.grad,
    }


def climb(name, linear, jacobian="matrix-free"):
    measured(4, linear, jacobian)  # whatever happens only once
    return [measured(n, linear, jacobian) for n in SIZES[name]]


ladder = {
    "dense": climb("dense", lambda problem: LU(), "dense"),
    "sparse": climb("sparse", lambda problem: LU(), "coloured"),
}


cycle = zip(SIZES, plt.rcParams["axes.prop_cycle"], "os^Dv", strict=True)
STYLES = {name: {**line, "marker": marker, "ms": 5} for name, line, marker in cycle}


def draw(panel, names, height=lambda row: row["forward"] + row["backward"]):
    for name in names:
        unknowns, values = zip(*((row["unknowns"], height(row)) for row in ladder[name]), strict=True)
        panel.loglog(unknowns, values, **STYLES[name], label=name)
    panel.set(xlabel="unknowns", ylabel="solve and gradient [s]")
    panel.legend(fontsize=8)


figure, panel = plt.subplots(figsize=(6.0, 3.2))
draw(panel, ladder)
plt.show()


def show(name):
    for row in ladder[name]:
        seconds = f"{row['forward']:6.2f} s forwards, {row['backward']:5.2f} s backwards"
        iterations = f"{row['iterations']:5.1f} and {row['backwards']:5.1f} iterations"
        print(f"{name:10} {row['unknowns']:6d} unknowns: {seconds}, {iterations}")


show("dense")
show("sparse")

# %%
# The dense line bends upwards without mercy. The sparse one is almost straight up to here, but in two
# dimensions it grows like N^1.5 in the end, and in three like N², since factors fill in.
#
# The third rung: Krylov
# ----------------------
#
# GMRES needs no matrix, only its products with vectors, J v, which torch computes for the price of a few
# evaluations of f; backwards it needs products with the transposed matrix, which cost no more. It finds the
# solution of a system as a combination of v, J v, J² v, … until what is left is small enough. The question is
# how many it takes.

ladder["Krylov"] = climb("Krylov", lambda problem: GMRES())
figure, panel = plt.subplots(figsize=(6.0, 3.2))
unknowns = [row["unknowns"] for row in ladder["Krylov"]]
panel.loglog(
    unknowns, [row["iterations"] for row in ladder["Krylov"]], "o-", label="forwards, a Newton iteration"
)
panel.loglog(unknowns, [row["backwards"] for row in ladder["Krylov"]], "s--", label="backwards, a step")
panel.set(xlabel="unknowns", ylabel="iterations of GMRES", title="without a preconditioner")
panel.legend()
plt.show()

show("Krylov")
assert ladder["Krylov"][-1]["iterations"] > (1.2 if QUICK else 1.5) * ladder["Krylov"][0]["iterations"]
assert ladder["Krylov"][-1]["backwards"] > ladder["Krylov"][-1]["iterations"]  # solved to 1e-9, not to 1e-2

# %%
# The finer the grid, the more: the eigenvalues spread like n², and GMRES takes about the square root of that,
# n. Backwards it takes more a system than forwards, as Newton's iteration corrects a solve, while nothing
# corrects the gradient.
#
# The fourth rung: a preconditioner
# ---------------------------------
#
# A preconditioner is a cheap approximate inverse. Here diffusion is what makes the system hard, so invert
# that:
#
# * ``Assembled(diffusion, "gamg")`` takes the Jacobian of a *part* of f as a sparse matrix, once, and gives
#   it to PETSc's algebraic multigrid. This works on any grid, for any elliptic part.
# * On a periodic grid, Fourier transforms invert the diffusion to rounding. That is a preconditioner of one's
#   own, an object with three methods. ``shift`` is the number in shift · 1 − J; the transposed one is needed
#   for gradients.


class Fourier:
    def __init__(self, problem):
        n = problem.y0.shape[-1]
        rates = 4 * 0.1 * n**2 * torch.sin(np.pi * torch.arange(n, dtype=torch.float64) / n) ** 2
        self.size, self.rates = (n, n), rates[:, None] + rates[: n // 2 + 1]

    def update(self, t, y, shift):
        self.inverse = 1 / (shift + self.rates)

    def apply(self, residual):
        return torch.fft.irfft2(torch.fft.rfft2(residual) * self.inverse, s=self.size)

    apply_transpose = apply  # the diffusion is symmetric


ladder["multigrid"] = climb(
    "multigrid", lambda problem: GMRES(Assembled(problem.split().implicit, "gamg", constant=True))
)
ladder["Fourier"] = climb("Fourier", lambda problem: GMRES(Fourier(problem)))

figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8))
draw(left, ladder)
draw(right, ("Krylov", "multigrid", "Fourier"), lambda row: row["backwards"])
right.set(xlabel="unknowns", ylabel="iterations backwards, a step", ylim=(1, 60))
plt.show()

for name in ("multigrid", "Fourier"):
    show(name)
    assert ladder[name][-1]["backwards"] < 1.5 * ladder[name][0]["backwards"] + 1  # nearly flat
    assert ladder[name][-1]["backwards"] < ladder["Krylov"][-1]["backwards"]

# %%
# Both make the number of iterations nearly independent of the grid. That is not yet time: a cycle of
# multigrid costs more than it saves here, up to 32 768 unknowns, as the fields are smooth and steps short, so
# that GMRES alone needs only some 10 to 25 iterations. Fourier transforms are cheaper than a product. *Count
# iterations, then time.* The lines of ``Krylov`` and multigrid come together to the right, where iterations
# without a preconditioner double with each doubling of n.
#
# The gradients do not depend on the rung:

largest = {name: rows[-1] for name, rows in ladder.items() if name in ("Krylov", "multigrid", "Fourier")}
for name, row in largest.items():
    print(f"{name:10} dloss/dα, dloss/dB = {row['gradient'].numpy()}")
    # The steps' tolerance is 1e-4, and Newton's iteration ends at 1 % of that, differently on each rung.
    torch.testing.assert_close(row["gradient"], largest["Fourier"]["gradient"], rtol=1e-5, atol=0)
fields = [largest[name]["field"] for name in ("Krylov", "Fourier")]
assert (fields[0] - fields[1]).norm() < 1e-4 * fields[1].norm()

n = SIZES["Fourier"][-1]
figure, panels = plt.subplots(1, 2, figsize=(8.0, 3.3))
for panel, gradient, name in zip(panels, largest["Fourier"]["field"] * n**2, "uv", strict=True):
    image = panel.imshow(gradient, origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
    figure.colorbar(image, ax=panel, shrink=0.8)
    panel.grid(visible=False)
    panel.set(title=f"gradient by {name} at the start, times n²", xlabel="y", ylabel="x")
plt.show()

# %%
# Memory
# ------
#
# A backward pass needs the states of the forward run: by default all, which is hundreds of fields.
# ``Discrete(checkpoints=k)`` keeps k states, and takes the steps between them again when they are needed.
# ``Disk(folder)`` keeps all in a file. We take Crank-Nicolson, for which a checkpoint is one state.

n, KEPT = (16, (20, 5)) if QUICK else (64, (20, 10, 5))
problem = brusselator(n)
costs, gradients = {}, {}
ways = {"all": "solutions", **{str(k): k for k in KEPT}, "file": Disk(tempfile.gettempdir())}
for name, kept in ways.items():
    func, y0 = problem.func("alpha", "B"), torch.from_numpy(problem.y0)
    began = time.process_time()
    sol = stiffml.solve(
        func, y0, t, method="cn", rtol=1e-3, atol=1e-6, linear=GMRES(Fourier(problem)), adjoint=Discrete(kept)
    )
    middle = time.process_time()
    sol.y[-1].square().mean().backward()
    costs[name] = (middle - began, time.process_time() - middle, sol.stats.adjoint.rhs_evals)
    gradients[name] = torch.stack([func.alpha.grad, func.B.grad])
    print(f"states kept: {name:8} {costs[name][1]:.2f} s backwards, {costs[name][2]} evaluations of f")

figure, panel = plt.subplots(figsize=(6.0, 3.0))
forward, backward = (np.array([cost[k] for cost in costs.values()]) for k in (0, 1))
panel.barh(list(costs), forward, label="forwards")
panel.barh(list(costs), backward, left=forward, hatch="//", label="backwards")
panel.set(xlabel="time [s]", ylabel="states kept", title=f"{2 * n**2} unknowns, {sol.stats.accepted} steps")
panel.legend()
plt.show()

for gradient in gradients.values():
    # Steps that are taken again are the same up to Newton's 1 % of a tolerance of 1e-3.
    torch.testing.assert_close(gradient, gradients["file"], rtol=1e-5, atol=0)
evaluations = [costs[str(kept)][2] for kept in KEPT]
assert evaluations == sorted(evaluations)  # the fewer states, the more is taken again
assert evaluations[0] > costs["file"][2]

# %%
# Several processes
# -----------------
#
# ``stiffml.distributed.Field`` spreads a field over processes by MPI. The right-hand side is written for a
# part of it with a border of ghost points, and all else stays as it is: the guide has a whole script, which
# starts by ``OMP_NUM_THREADS=1 mpiexec -n 2 python script.py``. The following solves a field, which also has
# a network at every point, on one process and on two, and compares:
#
# .. code-block:: bash
#
#    python benchmarks/large_fields/ranks.py --grid 64 --out /tmp
#
# Two processes give the same numbers as one, up to what Newton's iteration leaves. This is what it said for a
# larger field:

ranks = json.loads((RESULTS / "field_ranks.json").read_text())
print(ranks["command"], "on", ranks["machine"])
for bound in ranks["bounds"]:
    print(f"    {bound['what']}: {bound['value']:.3g}")
    assert bound["met"]
figure, panel = plt.subplots(figsize=(6.0, 2.4))
labels = [f"{case['ranks']} process{'es' if case['ranks'] > 1 else ''}" for case in ranks["cases"]]
forward, backward = (np.array([case[key] for case in ranks["cases"]]) for key in ("forward_s", "backward_s"))
panel.barh(labels, forward, label="forwards")
panel.barh(labels, backward, left=forward, hatch="//", label="backwards")
panel.set(xlabel="time [s]", title=f"{ranks['cases'][0]['unknowns']} unknowns, stored")
panel.legend()
plt.show()

# %%
# Towards the million
# -------------------
#
# What would a million cost? ``benchmarks/large_fields/growth.py`` went on to 524 288 unknowns, on one core,
# with a network at every point, rtol = 1e-5 and all states kept. Its results are stored; we draw them after
# ours, and extend the last one in proportion to N.

growth = json.loads((RESULTS / "field_growth.json").read_text())
figure, panel = plt.subplots(figsize=(6.4, 3.8))
draw(panel, ["multigrid", "Fourier"])
MILLION = 1_036_800
for kind, colour, name in (("gamg", "C3", "multigrid"), ("fft", "C4", "Fourier")):
    rows = [case for case in growth["cases"] if case["preconditioner"] == kind]
    unknowns = np.array([row["unknowns"] for row in rows])
    seconds = np.array([row["forward_s"] + row["backward_s"] for row in rows])
    panel.loglog(unknowns, seconds, "D", mfc="none", color=colour, label=f"{name}, stored")
    expected = seconds[-1] * MILLION / unknowns[-1]
    panel.loglog([unknowns[-1], MILLION], [seconds[-1], expected], ":", color=colour)
    each = f"{rows[-1]['forward_s']:.0f} s forwards, {rows[-1]['backward_s']:.0f} s backwards"
    print(f"{name}: {unknowns[-1]} unknowns, {rows[-1]['steps']} steps, {each}; a million: {expected:.0f} s")
    # Linear within a third over 256 times the size: a larger size can be told from a smaller one.
    assert seconds[-1] / seconds[0] < 1.33 * unknowns[-1] / unknowns[0]
panel.legend(fontsize=8)
plt.show()

# %%
# So a million unknowns would take eight and a half minutes by multigrid and half of that by Fourier
# transforms, for a run to t = 1 with its gradient. All of its 165 states are 1.4 GB, which a machine may
# have; a longer run needs checkpoints. ``benchmarks/large_fields/million.py`` takes ARKIMEX, with the
# diffusion implicit, and keeps 10 states. The run that is stored goes up to 1 036 800 unknowns, *for a short
# time*, to t = 0.01: 12 steps, 28 s forwards and 71 s backwards on one core, and 0.6 GiB in all, which are 78
# states.

large = json.loads((RESULTS / "field_million.json").read_text())
print(large["command"], "on", large["machine"])
for case in large["cases"]:
    gib = case["peak_states"] * 8 * case["unknowns"] / 2**30
    kept = f"{case['checkpoints']} states kept"
    print(f"{case['unknowns']} unknowns, {case['steps']} steps of {large['method']}, {kept}:")
    print(f"    {case['forward_s']:.0f} s forwards, {case['backward_s']:.0f} s backwards, peak {gib:.2f} GiB")
figure, panel = plt.subplots(figsize=(4.6, 3.6))
image = panel.imshow(large["u"], origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
figure.colorbar(image, ax=panel)
panel.grid(visible=False)
panel.set(
    title=f"u at t = {large['t_end']:g}, {large['cases'][-1]['unknowns']} unknowns", xlabel="y", ylabel="x"
)
plt.show()

assert all(bound["met"] for bound in large["bounds"])  # the gradient against differences, at the smaller size
assert large["cases"][-1]["peak_states"] < 500

# %%
# To take home:
#
# * Dense up to a few hundred unknowns; a sparse factorisation up to some ten thousand, in two dimensions;
#   then GMRES, with a preconditioner as soon as iterations grow. ``linear="auto"`` goes by these sizes; for a
#   field as mild as this one, GMRES would have been faster from a hundred
#   unknowns on. Measure.
# * A preconditioner inverts what is hard, not everything: diffusion, not the reaction, nor the network.
# * Gradients cost no more than the solve, on each rung but the dense one, and are the same on all of them.
# * Checkpoints trade time for memory; two processes are nearly twice as fast.

# %%
# Sources
# -------
#
# * E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd edition, Springer, 1996: the
#   Brusselator with diffusion in IV.10.
# * Y. Saad, Iterative Methods for Sparse Linear Systems, 2nd edition, SIAM, 2003: GMRES and
#   preconditioners.
# * S. Balay et al., PETSc/TAO Users Manual, Argonne National Laboratory.
#
# %%
# Exercises
# ---------
#
# 1. How do iterations without a preconditioner depend on the length of steps? Take n = 64, and end at t =
#    0.01, 0.1 and 1.
#
#    *Answer.* 1.8, 2.9 and 5.5 iterations forwards, 3.5, 6.1 and 12.3 backwards. Short steps make shift · 1
#    the larger part of the matrix, and that is easy. The longer the span, the longer the steps, the more a
#    preconditioner brings.
#
# 2. ``GMRES(Fourier(problem), adjoint_rtol=...)`` says how accurately the transposed systems are solved. Take
#    n = 32 and 0.1, 1e-3, 1e-6, 1e-9. How wrong is the gradient, and what does it cost?
#
#    *Answer.* By α it is off by 370 %, by 0.5 %, by 1.3e-5 and 3e-8, with 0.2, 1.1, 2.5 and 4.0 iterations
#    a step, and by B by less. Nothing corrects these errors, and each digit is cheap, which is why 1e-9 is
#    the default.
#
# 3. Give the preconditioner the wrong diffusion: half of it, twice and ten times. Does the solve still
#    succeed?
#
#    *Answer.* Yes, with the same gradient. With n = 32 it takes 1.8, 2.0 and 3.8 iterations forwards, where
#    the right one takes 1.7, and 4.3, 4.7 and 8.0 backwards, where that takes 4.0. A preconditioner decides
#    how long, not what.

"""
What stiffness does
===================

Three chemicals, three rate constants, and an integrator that everybody trusts. It needs tens of thousands
of evaluations for the first ten seconds of a reaction in which hardly anything happens. This tutorial finds
out why, what implicit methods do about it, and then shows three ways in which a stiff solve can end without
a complaint and with a wrong answer, together with the checks that catch them.

After this you will be able to

* tell from the steps of an explicit method that it is stability, and not accuracy, that limits them;
* read a stability region, and say what A-stable and L-stable promise, and what they do not;
* compare methods by what a digit costs;
* find a wrong solution that was reported as a success, by its invariants, its bounds and a second method.

You need torch, matplotlib and some memory of what a Runge-Kutta method is. All of it takes about half a
minute on one core; nothing in it is random. With the environment variable ``STIFFML_TUTORIALS=quick`` it
does less, in a few seconds.
"""

import dataclasses
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.integrate import solve_ivp

import problems
import stiffml
from problems.workprecision import measure

torch.set_num_threads(1)  # the systems are tiny: threads would only get in each other's way

plt.style.use(Path(__file__).with_name("stiffml.mplstyle"))
COLOURS = {"dopri5": "#c1440e", "bdf": "#1f5a99", "rosw-ra34pw2": "#2e8b57", "cn": "#8a4fbf"}

MARKERS = {"dopri5": "o", "bdf": "s", "rosw-ra34pw2": "D"}

QUICK = os.environ.get("STIFFML_TUTORIALS") == "quick"
SPAN = 2.0 if QUICK else 10.0  # seconds for the explicit methods
RTOLS = (1e-7, 1e-3) if QUICK else (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
RTOL_OF_TRAP = 1e-4 if QUICK else 1e-6
RING_SPAN = 0.5 if QUICK else 2.0  # seconds of the oscillator
PLACES = 40 if QUICK else 120  # where eigenvalues are computed
RTOLS_OF_E5 = (1e-7,) if QUICK else (1e-5, 1e-7, 1e-9)

# %%
# A reaction that takes three thousand years
# ------------------------------------------
#
# Robertson's problem is the standard example of a stiff system: A turns into B slowly, B turns into C very
# quickly, and B and C together turn back into A and C. ``problems.load`` knows its equations, its units and
# its published end value.

robertson = problems.load("robertson")
print(robertson.equations)
for name, parameter in robertson.parameters.items():
    print(f"{name} = {parameter.value:g} {parameter.units:4}  {parameter.description}")

# %%
# We start with nothing but A and follow the reaction for 1e11 seconds, with a backward differentiation
# formula (BDF). Mind the axes: time is logarithmic, and there is never more than a trace of B.

full = robertson.solve(method="bdf", rtol=1e-6)
print(robertson.check(full))
print(
    f"{full.stats.accepted} steps, {full.stats.rhs_evals} evaluations of f, {full.stats.jacobians} Jacobians"
)

figure, panels = plt.subplots(1, 3, figsize=(9.6, 2.8), sharex=True)
dense = torch.logspace(-5, 11, 300, dtype=torch.float64)
states = full.interpolate(dense)
for panel, name, y in zip(panels, robertson.components, states.T, strict=True):
    panel.plot(dense, y, color=COLOURS["bdf"])
    panel.set(xscale="log", xlabel="time [s]", title=f"species {name}", xticks=[1e-4, 1, 1e4, 1e8])
panels[0].set_ylabel("concentration")
plt.show()

assert full.stats.accepted < 2000
assert robertson.check(full).digits > 4

# %%
# The integrator you know
# -----------------------
#
# Now the same equations with scipy's default, ``RK45``: an explicit Runge-Kutta pair of order 5 with error
# control. It gets only the first ten seconds, 1e-10 of the span, and a tolerance that we loosen bit by bit.


def f(t, y, k1=0.04, k2=3e7, k3=1e4):
    a, b, c = y
    return [k3 * b * c - k1 * a, k1 * a - k3 * b * c - k2 * b * b, k2 * b * b]


evaluations = {
    name: [solve_ivp(f, (0, SPAN), [1, 0, 0], name, rtol=r, atol=[r, 1e-5 * r, r]).nfev for r in RTOLS]
    for name in ("RK45", "BDF")
}
figure, panel = plt.subplots(figsize=(5.6, 3.2))
panel.loglog(RTOLS, evaluations["RK45"], "o-", color=COLOURS["dopri5"], label="RK45, explicit")
panel.loglog(RTOLS, evaluations["BDF"], "s-", color=COLOURS["bdf"], label="BDF, implicit")
panel.set(
    xlabel="relative tolerance", ylabel="evaluations of f", ylim=(50, 2e5), title="ten seconds of Robertson"
)
panel.legend()
plt.show()

print("RK45:", evaluations["RK45"])
print("BDF: ", evaluations["BDF"])
assert evaluations["RK45"][-1] > 0.8 * evaluations["RK45"][0]
assert evaluations["RK45"][-1] > 100 * evaluations["BDF"][-1]

# %%
# An honest method works less hard when you ask for less: BDF does. RK45 does not. Whether you want seven
# digits or three, it takes about the same number of steps, so that something other than accuracy must be
# deciding how long they are.
#
# What limits the step
# --------------------
#
# Near a solution, a small error e obeys e' = J e, where J = ∂f/∂y. Its eigenvalues are therefore the rates
# at which perturbations grow or decay. Here they are along the solution:

places = np.geomspace(1e-4, 1e11, PLACES)
along = full.interpolate(torch.tensor(places)).numpy()
eigenvalues = np.array([robertson.eigenvalues(t, y).real for t, y in zip(places, along, strict=True)])
fastest = -eigenvalues[:, 0]

figure, panel = plt.subplots(figsize=(5.6, 3.2))
panel.loglog(places, fastest, color="black", label="fastest decay, |λ|")
panel.loglog(places, 1 / places, color="0.6", ls="--", label="1/t: how fast the solution changes")
panel.set(xlabel="time [s]", ylabel="rate [1/s]", title="rates along Robertson's solution")
panel.legend()
plt.show()

at_ten = np.interp(SPAN, places, fastest)
print(f"fastest decay at {SPAN:g} s: {at_ten:.2g} per second, at the end: {fastest[-1]:.2g}")

# %%
# One eigenvalue is zero, because A + B + C never changes. One belongs to the slow reaction that we want to
# see. And one, drawn here, says that B returns to its balance within a fraction of a millisecond: at the
# end of the span about 1e15 times faster than the solution moves. That gap is stiffness. Note that nothing
# of this fast decay is visible in the solution: B has been in balance since the first hundredth of a
# second.
#
# An explicit method has to respect the fast rate all the same. On e' = λ e, a step of length h multiplies e
# by R(hλ), where R is a polynomial; and polynomials grow, so that beyond some ``h|λ|`` the error is
# multiplied by more than one. For the pair of Dormand and Prince, which is what both ``RK45`` and stiffml's
# ``dopri5`` are:

R = np.polynomial.Polynomial([1, 1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 600])
LIMIT = max(-root.real for root in (R - 1).roots() if abs(root.imag) < 1e-12)
print(f"dopri5 is stable for h |λ| < {LIMIT:.3f}")

x, y = np.meshgrid(np.linspace(-8, 15, 140), np.linspace(-11, 11, 130))
z = x + 1j * y
# BDF5 is Σ ∇ʲu / j = h f, j = 1 … 5. With u_n = ξⁿ and w = 1/ξ this is Σ (1 − w)ʲ / j = hλ.
bdf5 = sum(np.polynomial.Polynomial([1, -1]) ** j / j for j in range(1, 6)).coef
companion = np.broadcast_to(np.eye(5, k=-1, dtype=complex), (*z.shape, 5, 5)).copy()
companion[..., -1] = -bdf5[:-1] / bdf5[-1]
companion[..., 0, -1] += z / bdf5[-1]
largest = 1 / np.abs(np.linalg.eigvals(companion)).min(axis=-1)

figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.4), sharey=True)
factors = {"dopri5": R(z), "cn": (1 + z / 2) / (1 - z / 2), "bdf": largest}
for panel, (name, factor) in zip(panels, factors.items(), strict=True):
    panel.contourf(x, y, np.abs(factor), levels=[0, 1], colors=[COLOURS[name]], alpha=0.35)
    panel.contour(x, y, np.abs(factor), levels=[1], colors=[COLOURS[name]])
    panel.set(title="bdf, of order 5" if name == "bdf" else name, xlabel="Re hλ", aspect="equal")
    panel.axvline(0, color="black", lw=0.6)
panels[0].set_ylabel("Im hλ")
plt.show()

assert abs(LIMIT - 3.3066) < 1e-3

# %%
# Errors decay where the plane is coloured. The implicit methods solve a (nonlinear) system for the end of
# each step, which makes R a quotient and not a polynomial. Crank-Nicolson colours all of the left half. BDF
# of order 5, which has five factors, of which the largest counts, leaves out two lobes beside the imaginary
# axis; along the negative real axis it is stable, and no mode that just decays, however fast, can limit its
# step. (We come to the lobes.)
#
# Ten seconds, four methods
# -------------------------
#
# stiffml has explicit and implicit methods behind one door. ``bdf`` is a multistep formula of order 5,
# ``rosw-ra34pw2`` a Rosenbrock method of order 3, which needs only linear solves, and ``cn`` is
# Crank-Nicolson, of order 2. We look at what they cost, how many digits are right, and whether A + B + C is
# what it was.

ten = robertson.make(t_span=(0.0, SPAN))
t = torch.tensor([0.0, SPAN], dtype=torch.float64)
tight = ten.solve(t, method="bdf", rtol=1e-11).y[-1]

runs = {}
print("method        steps  evaluations of f  Jacobians  digits  drift of the sum")
for method in COLOURS:
    sol = runs[method] = ten.solve(t, method=method, rtol=1e-5)
    digits = -((sol.y[-1] - tight) / tight).abs().max().log10()
    counts = f"{sol.stats.accepted:6d}  {sol.stats.rhs_evals:16d}  {sol.stats.jacobians:9d}"
    print(f"{method:12} {counts}  {digits:6.1f}  {ten.check(sol).invariant_drift:16.1e}")

figure, panel = plt.subplots(figsize=(5.6, 2.4))
panel.barh(list(runs), [sol.stats.rhs_evals for sol in runs.values()], color=COLOURS.values())
panel.set(xscale="log", xlim=(100, 1e5), xlabel="evaluations of f for ten seconds, rtol = 1e-5")
panel.invert_yaxis()
plt.show()

assert runs["dopri5"].stats.rhs_evals > 10 * runs["bdf"].stats.rhs_evals
assert all(ten.check(sol).invariant_drift < 1e-12 for sol in runs.values())

# %%
# The explicit method takes many times the evaluations of the others. (The implicit ones pay for their steps
# with Jacobians and linear solves, so that evaluations are not the whole bill: wait for the picture of work
# against precision below.) All of them keep the sum to rounding, the poor ones included: Runge-Kutta and
# multistep methods keep every *linear* invariant, which is welcome, and no proof of accuracy.
#
# ``sol.steps`` holds the steps that were taken, as fractions of the interval between two output times. Here
# are their lengths, with the stability limit from above:


def step_sizes(sol):
    """Times at which steps end, and their lengths, of a solution with two output times."""
    ends = np.concatenate([[0.0], sol.steps.ends[0]]) * float(sol.t[-1])
    return ends[1:], np.diff(ends)


figure, panel = plt.subplots(figsize=(7.6, 4.0))
inset = panel.inset_axes([0.08, 0.56, 0.42, 0.32])
for method, marker in (("dopri5", "o"), ("bdf", "s")):
    ends, h = step_sizes(runs[method])
    label = f"{method}: {len(h)} steps"
    panel.loglog(ends, h, marker, ms=2, color=COLOURS[method], label=label, rasterized=True)
    if method == "dopri5":
        shown = np.flatnonzero(ends > SPAN / 10)[:60]
        inset.plot(ends[shown], 1e3 * h[shown], "o-", ms=2, lw=0.7, color=COLOURS[method])
inside = (places > 2e-4) & (places < SPAN)
limits = LIMIT / fastest
panel.loglog(places[inside], limits[inside], color="black", ls="-", lw=1.2, zorder=3, label="3.31 / |λ|")
inset.axhline(1e3 * np.interp(SPAN / 10, places, limits), color="black", lw=1.2)
inset.set_title("60 steps of dopri5 [ms]", fontsize=8)
inset.tick_params(labelsize=7)
panel.set(xlabel="time [s]", ylabel="step size [s]", xlim=(1e-4, SPAN), ylim=(1e-5, 30))
panel.set_title("steps taken, rtol = 1e-5")
panel.legend(markerscale=3, loc="lower right")
plt.show()

ends, h = step_sizes(runs["dopri5"])
ratio = np.median(h[ends > 0.1 * SPAN]) / (LIMIT / np.interp(0.3 * SPAN, places, fastest))
print(f"typical step of dopri5 after a tenth of the span, in units of the limit: {ratio:.2f}")
assert 0.7 < ratio < 1.3

# %% For the first hundredth of a second something happens that has to be resolved, and both take short
# steps. Then B is in balance. BDF lets its steps grow, by the 12 % a step that stiffml allows to a formula
# of order 5. dopri5 bumps along the ceiling, as the inset shows: each time it tries a longer step, the fast
# mode grows, the error estimate notices, and the next step is shorter. The error control does its duty; it
# just has nothing to do with accuracy any more.
#
# What if we let it run to the end?

steps = np.trapezoid(fastest, places) / LIMIT
seconds = runs["dopri5"].stats.wall_s / runs["dopri5"].stats.accepted * steps
print(f"dopri5 to 1e11 s: {steps:.1g} steps, {seconds / 3.15e7:,.0f} years on this machine")
print(f"bdf to 1e11 s: {full.stats.accepted} steps, {full.stats.wall_s:.1f} s")

# %%
# Work against precision
# ----------------------
#
# A fair comparison of methods asks what a digit costs. ``problems.workprecision.measure`` solves at several
# tolerances and compares with a reference; ``problems.workprecision.plot(work)`` draws the result, and here
# we draw it ourselves.

work = measure(ten, ["dopri5", "bdf", "rosw-ra34pw2"], rtols=RTOLS[::-2], repeats=1)

figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True)
for panel, cost in zip(panels, ("rhs_evals", "wall_s"), strict=True):
    for method in work["method"].values:
        one = work.sel({"method": method})
        panel.semilogx(one[cost], one["digits"], MARKERS[method] + "-", color=COLOURS[method], label=method)
panels[0].set(xlabel="evaluations of f", ylabel=f"digits at t = {SPAN:g} s")
panels[1].set(xlabel="wall time [s]")
panels[0].legend()
plt.show()

cost = {method: work["rhs_evals"].sel({"method": method}).values for method in work["method"].values}
print("evaluations of f at rtol", work["rtol"].values)
for method, counts in cost.items():
    print(f"{method:14}", counts.astype(int))
assert cost["dopri5"].max() < 1.2 * cost["dopri5"].min()
assert (cost["dopri5"] > 10 * cost["bdf"]).all()

# %% The line of ``dopri5`` is upright: more digits cost nothing, because the steps are too short for any of
# these tolerances anyway. ``bdf`` has to work its way up from tiny first steps, at 12 % a step, which is
# most of its bill for ten seconds, so that the one-step method is ahead here. The tighter the tolerance and
# the milder the stiffness, the smaller the advantage of implicit methods, until it turns round: a stiff
# solver on a problem that is not stiff is a waste.
#
# Stable is not enough: Crank-Nicolson rings
# ------------------------------------------
#
# Look at the factor R once more, now for hλ → −∞. Backward Euler has R → 0: a fast mode is gone after one
# step. Crank-Nicolson has R → −1: the mode stays as large as it was and changes its sign at each step. The
# problem of Prothero and Robinson, y' = λ (y − φ(t)) + φ'(t), shows this best. Its solution is φ, and we
# start a little beside it:

prothero = problems.load("prothero").make(y0=np.array([1.5]))
t = prothero.times(40)
figure, panel = plt.subplots(figsize=(7.2, 3.2))
panel.plot(t, torch.sin(t + np.pi / 4), color="0.6", lw=4, label="φ(t)")
late = {}
for method, colour, style in (("cn", COLOURS["cn"], "^:"), ("bdf2", COLOURS["bdf"], "s-")):
    y = prothero.solve(t, method=method, steps=stiffml.Grid()).y[:, 0]
    panel.plot(t, y, style, ms=3, color=colour, lw=1, label=f"{method}, 40 equal steps")
    late[method] = (y - torch.sin(t + np.pi / 4))[20:].abs().max()
panel.set(
    xlabel="time [s]", ylabel="y", ylim=(-2, 2.7), title="λ = −1e6 per second, started beside the solution"
)
panel.legend(loc="upper center", ncols=3)
plt.show()

print({method: f"{error:.1e}" for method, error in late.items()})
assert late["cn"] > 0.5
assert late["bdf2"] < 0.05

# %%
# Both methods are stable for every λ with a negative real part ("A-stable"); only the second damps very fast
# modes at once as well ("L-stable"). Learned right-hand sides tend to have fast modes nobody asked for, and
# initial values a little beside the slow solution: damping is what they need.
#
# Damped is not enough: BDF and an oscillation
# --------------------------------------------
#
# stiffml's default, ``bdf``, is of order 5. It damps fast decay like the L-stable methods, but it is not
# A-stable: no multistep formula of order above 2 can be (Dahlquist 1963). It is A(α)-stable, with a wedge of
# α = 51.8° to both sides of the negative real axis. A mode that oscillates fast and decays slowly lies in its
# lobes. Here are the eigenvalues −1 ± 1000i, with a smooth solution and a start that is 0.01 beside it:

RING = torch.tensor([[-1.0, 1000.0], [-1000.0, -1.0]], dtype=torch.float64)


def oscillator(t, y):
    smooth, slope = torch.stack([t.cos(), t.sin()]), torch.stack([-t.sin(), t.cos()])
    return RING @ (y - smooth) + slope


beside, span = torch.tensor([[1.01, 0.0], [0.0, RING_SPAN]], dtype=torch.float64)
ringing = {
    method: stiffml.solve(oscillator, beside, span, method=method, rtol=1e-3, atol=1e-3).stats.accepted
    for method in ("bdf", "bdf2", "rosw-ra34pw2")
}
figure, panel = plt.subplots(figsize=(5.6, 1.9))
panel.barh(list(ringing), list(ringing.values()), color=COLOURS["bdf"])
panel.set(xscale="log", xlim=(1, 1e4), xlabel=f"steps for {RING_SPAN:g} s")
panel.invert_yaxis()
plt.show()

print(ringing)
assert ringing["bdf"] > 5 * ringing["bdf2"]

# %% The A-stable methods take a few dozen steps and are done. ``bdf`` gets stuck: as soon as its step grows
# into the lobe, the oscillation grows, the step is cut, and so on, as for an explicit method. Where
# eigenvalues are complex and fast (circuits, waves, learned fields that rotate) take ``rosw-ra34pw2`` or
# another one-step method; ``stiffml.diagnostics.advise`` looks at the eigenvalues for you.
#
# First trap: one absolute tolerance for all
# ------------------------------------------
#
# The error control compares the error of component i with ``atol[i] + rtol * |y[i]|``. There is never more
# than 4e-5 of B, and about 1e-13 of it at the end. With ``atol=1e-6`` for all three, B can be anything the
# method likes:

t = robertson.times(60, first=1e-4)
arguments = dict(method="bdf3", rtol=RTOL_OF_TRAP, outputs="interpolate")
good = robertson.solve(t, **arguments)  # atol from the problem: rtol times what counts, by component
bad = robertson.solve(t, atol=1e-6, **arguments)
print("atol by component:", [f"{a:.0e}" for a in robertson.atol(RTOL_OF_TRAP).tolist()])
for name, sol in (("by component", good), ("1e-6 for all", bad)):
    print(f"\natol {name}: {sol.message}, {sol.stats.accepted} steps; at the end A = {sol.y[-1, 0]:.3g}")
    print(robertson.check(sol))

figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.3), sharex=True)
for sol, colour, style, label in (
    (bad, COLOURS["dopri5"], "--", "1e-6 for all"),
    (good, COLOURS["bdf"], "-", "by component"),
):
    panels[0].loglog(t[1:], sol.y[1:, 1].abs(), style, color=colour, label=f"atol {label}")
    negative = sol.y[:, 1] < 0
    panels[0].loglog(t[negative], -sol.y[negative, 1], "x", color=colour, ms=7)
    for panel in panels[1:]:
        panel.semilogx(t[1:], sol.y[1:, 0], style, color=colour)
panels[0].axhline(1e-6, color="0.5", ls=":", lw=1)
panels[0].text(2e-4, 4e-7, "1e-6", color="0.4", va="top")
panels[0].set(xlabel="time [s]", ylabel="|B|", title="B (crosses: negative)")
panels[1].set(xlabel="time [s]", title="A, as it should look", ylim=(-0.05, 1.05))
panels[2].set(xlabel="time [s]", title="A, all of it")
panels[0].legend(fontsize=8)
plt.show()

assert bad.success
assert bad.y[-1, 0] < -1e6
assert robertson.check(bad).invariant_drift < 1e-9
assert robertson.check(bad).excess > 1e6
assert robertson.check(good).digits > 2

# %%
# The solve reports success: every error estimate was within its tolerance, and the sum is kept to rounding.
# And there are about minus thirty million units of A. What happened is plain from the left picture: once B
# has fallen far below 1e-6, the method may put it on either side of zero, and for a negative B Robertson's
# equations run away. What catches it is the line ``outside its bounds``: a concentration is never negative.
#
# So give ``atol`` as a tensor, with a size for each component below which its digits do not matter to you.
# The problems of the library come with such sizes (``problem.threshold``), and yours should too.
#
# Second trap: four equations that lose what they conserve
# --------------------------------------------------------
#
# E5 is a reaction whose concentrations fall from 1e-3 to 1e-22 over 1e13 seconds. We take three versions of
# it. The first sums the four terms of y3' in the order in which they are printed in books. ``e5`` of the
# library sums the same terms in a better order. ``e5_conserved`` we come to below.

e5, conserved = problems.load("e5"), problems.load("e5_conserved")
print(e5.equations)


def as_printed(t, y, p):
    y1, y2, y3, y4 = y.unbind(-1)
    r1, r2, r3, r4 = p["A"] * y1, p["B"] * y1 * y3, p["M"] * p["C"] * y2 * y3, p["C"] * y4
    return torch.stack([-r1 - r2, r1 - r3, r1 - r2 - r3 + r4, r2 - r4], dim=-1)


versions = (dataclasses.replace(e5, name="as printed", rhs=as_printed), e5, conserved)
span = torch.tensor(e5.t_span, dtype=torch.float64)
runs = {v.name: [v.solve(span, method="bdf", rtol=rtol) for rtol in RTOLS_OF_E5] for v in versions}
reports = {v.name: [v.check(sol) for sol in runs[v.name]] for v in versions}
print("\nversion       rtol   digits  drift of y2 = y3 + y4   y2 at the end   y3 at the end")
for name in runs:
    for rtol, sol, report in zip(RTOLS_OF_E5, runs[name], reports[name], strict=True):
        ends = f"{sol.y[-1, 1]:13.4e}   {sol.y[-1, 2]:13.4e}"
        print(f"{name:12} {rtol:.0e}  {report.digits:6.1f}  {report.invariant_drift:21.1e}   {ends}")

figure, panel = plt.subplots(figsize=(5.6, 3.2))
E5_COLOURS = dict(zip(runs, (COLOURS["dopri5"], COLOURS["cn"], COLOURS["bdf"]), strict=True))
for (name, colour), marker in zip(E5_COLOURS.items(), "osD", strict=True):
    panel.semilogx(RTOLS_OF_E5, [r.digits for r in reports[name]], marker + "-", color=colour, label=name)
panel.axhline(0, color="black", lw=0.6)
panel.set(xlabel="relative tolerance", ylabel="digits at t = 1e13 s", ylim=(-3.5, 9.5))
panel.set_title("E5: what a tolerance buys")
panel.legend(ncols=3, loc="upper center", fontsize=8)
plt.show()

assert max(report.digits for report in reports["as printed"]) < 1
assert reports["e5"][-1].digits < 5
assert reports["e5_conserved"][-1].digits > 5  # as the tolerance asks
assert all(sol.success for sols in runs.values() for sol in sols)

# %%
# As printed, there is not one right digit (a negative number means an error larger than the value). With a
# better order of summation there are a few, and no more at tighter tolerances. Nothing failed in either.
# The reason is a conservation law. Adding up the equations shows that y2 − y3 − y4 never changes, so that
# y2 = y3 + y4 for all time. The four equations know this only implicitly: each step adds h times the *same*
# large rates to both sides, rounded differently. Late in the reaction both sides have become tiny, but the
# difference that rounding left there has not:

late = torch.logspace(7, 13, 200, dtype=torch.float64)
MC = e5.parameters["M"].value * e5.parameters["C"].value
figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.4), sharey=True)
for panel, name in zip(panels, runs, strict=True):
    y = runs[name][len(RTOLS_OF_E5) // 2].interpolate(late)
    panel.loglog(late, y[:, 1], "-", color=COLOURS["bdf"], lw=3.5, alpha=0.5, label="y2")
    panel.loglog(late, y[:, 2] + y[:, 3], "-.", color=COLOURS["dopri5"], label="y3 + y4")
    gap = (y[:, 1] - y[:, 2] - y[:, 3]).abs()
    if gap.max() > 1e-28:
        panel.loglog(late, np.where(gap > 0, gap, np.nan), ":", color="black", label="their difference")
    else:
        panel.text(2e7, 1e-26, "the difference is 0,\nor rounding of y2", fontsize=9)
    panel.loglog(late[-60:], 1 / (MC * late[-60:]), "--", color="0.6", label="1 / (M C t)")
    panel.set(xlabel="time [s]", title=name, ylim=(1e-28, 1e-12))
panels[0].set_ylabel("concentration [mol/m³]")
panels[1].legend(loc="upper right", fontsize=8)
plt.show()

# %%
# When y1 and y4 are used up, what remains is y2' = y3' = −MC y2 y3. With y2 = y3 this gives y2 ≈ 1/(MCt),
# the grey line. If instead y2 = y3 + d with a d that rounding has left, the smaller of the two decays like
# exp(−MCdt) and the larger one stops at d: what the left picture shows. In the middle one d is smaller, and
# limits the digits to those of y2 above d. Smaller steps do not make d smaller.
#
# The cure is to make the law an equation. In ``e5_conserved``, the equation of y2 is replaced by 0 = y3 +
# y4 − y2, which makes it a differential-algebraic equation (a DAE; its mass matrix has a zero on the
# diagonal, and stiffml's implicit methods take it as it is). Now the digits follow the tolerance.
#
# Third trap: a published number
# ------------------------------
#
# You might want to compare with the literature. This is an end value of E5 that has often been copied:

bari = np.array([1.152903278711829e-291, 8.86765551764212e-23, 8.854814626268838e-23, 0.0])
broken = abs(bari[1] - bari[2] - bari[3]) / bari[1]
largest_y1 = np.log10(e5.y0[0]) - e5.parameters["A"].value * e5.t_span[1] / np.log(10)
print(f"y2 = y3 + y4 is broken by {broken:.1e} of y2")
print(f"y1 is 1e{np.log10(bari[0]):.0f}; since y1' ≤ −A y1, it can be 1e{largest_y1:.0f} at most")

rows = {
    "copied value": bari,
    "e5, rtol = 1e-9": runs["e5"][-1].y[-1].numpy(),
    "e5_conserved, rtol = 1e-9": runs["e5_conserved"][-1].y[-1].numpy(),
    "reference of the library": e5.references[0].y,
}
figure, panel = plt.subplots(figsize=(6.4, 2.8))
y2, y34 = np.array([[y[1], y[2] + y[3]] for y in rows.values()]).T * 1e23
panel.plot(y2, range(4), "s", ms=9, color=COLOURS["bdf"], mfc="none", label="y2")
panel.plot(y34, range(4), "x", ms=7, color=COLOURS["dopri5"], label="y3 + y4")
panel.set(yticks=range(4), yticklabels=rows, ylim=(-0.6, 4.2), xlabel="at t = 1e13 s [1e-23 mol/m³]")
panel.legend(ncols=2, loc="upper center")
plt.show()

assert 1.4e-3 < broken < 1.5e-3
assert largest_y1 < -3000

# %%
# The copied value breaks a law of its own equations, in the third digit of y2, and its y1 is three thousand
# orders of magnitude too large. It was computed in good faith and with tight tolerances, and it has about
# as many right digits as the runs of ``e5`` that you have just seen. No tolerance would have told its
# authors. The conservation law does, in one subtraction.
#
# To take home:
#
# * A problem is stiff where stability and not accuracy decides about the step of an explicit method.
# * Implicit methods lift that limit; L-stable ones also damp what they do not resolve. Of BDF the first two
#   orders are A-stable; the default of order 5 is not, and oscillating modes can slow it down.
# * A solve that succeeds has kept to its tolerances step by step. It has not promised that they fit your
#   problem, nor that the equations can carry the digits. Check invariants, bounds, and a second method.

last = conserved.check(runs["e5_conserved"][-1])
print(f"e5_conserved: {last.digits:.1f} digits, drift {last.invariant_drift:.1e}")

# %%
# Sources
# -------
#
# * C. F. Curtiss, J. O. Hirschfelder, Integration of stiff equations, PNAS 38 (1952) 235, where the word is
#   from.
# * H. H. Robertson, The solution of a set of reaction rate equations, in J. Walsh (ed.), Numerical
#   Analysis: An Introduction, Academic Press, 1966, 178.
# * E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd edition, Springer, 1996: stability
#   regions in IV.2 and IV.3, BDF in V.1.
#
# %%
# Exercises
# ---------
#
# 1. Change ``SPAN`` to 40 and predict, before you run it, how many evaluations ``RK45`` will take. (The
#    rate ``|λ|`` is in the third picture.)
#
#    *Answer.* 258 000 at rtol = 1e-3: five times as many as for 10 s, not four, since ``|λ|`` grows
#    from 2.6e3 per second at 10 s on. The steps are 3.3 / ``|λ|``, whatever the tolerance, each of six
#    evaluations.
#
# 2. Give the solve with ``atol=1e-6`` the default ``bdf`` instead of ``bdf3``, and then ``rosw-ra34pw2``. Do
#    they run away, too? How wrong are they in B, and would a check have told you?
#
#    *Answer.* They do not, and that is worse. ``bdf`` is wrong by 3 % in B, ``rosw-ra34pw2`` by up to 56 %.
#    The sum is kept to 1e-13 and no bound is broken. Only another tolerance or method tells: the two differ.
#
# 3. Solve Prothero and Robinson's problem on its exact solution (``problems.load("prothero")``) with
#    ``dirk-es325sal`` and 10, 20, 40, … equal steps. By what power of h does the error fall? Look up "order
#    reduction".
#
#    *Answer.* 4.7e-8, 1.2e-8, 3.0e-9, 7.4e-10: like h², though the method is of order 3. Where hλ is large,
#    the accuracy of the stages counts, which is of order 2. ``rosw-ra34pw2``, of order 3 too, gives 2 as
#    well.
#
# 4. Solve ``e5`` with the one-step methods ``rosw-ra34pw2`` and ``dirk-es325sal`` at rtol = 1e-7, and draw
#    y2 − y3 − y4 over the whole span. When is the difference made? Is it a matter of BDF?
#
#    *Answer.* It grows with the concentrations, until 1e3 to 1e4 s, and stays as it is from then on: 2e-23
#    with ``rosw-ra34pw2``, 3e-25 with ``dirk-es325sal``, 2e-25 with ``bdf``. So it is a matter of rounding
#    in f, and not of the method.

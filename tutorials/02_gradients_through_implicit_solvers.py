"""
Gradients through implicit solvers
==================================

To learn something inside a differential equation you need the gradient of a loss with respect to its
parameters, through the solver. If you have tried that on a stiff system, you may have met the message
``underflow in dt``. This tutorial shows where it comes from, and how the discrete adjoint of an implicit
method avoids it: you write one by hand, for Crank-Nicolson, in some twenty lines of torch, check it against
stiffml, and then use stiffml's to fit the three rate constants of Robertson's reaction.

After this you will be able to

* say which of two adjoints a library computes, and when that matters;
* write the discrete adjoint of an implicit method, and find a mistake in it;
* check a gradient, and tell an error of the gradient from one of the check;
* fit rate constants of a stiff reaction, with their standard errors;
* trade memory for time in a backward pass.

It takes up the problems of *What stiffness does*, which comes before it, and takes about half a minute on
one core. The data have noise from seed 0. With the environment variable ``STIFFML_TUTORIALS=quick`` it does
less, in a few seconds.
"""

import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torchdiffeq

import problems
import stiffml

torch.set_num_threads(1)  # the systems are tiny: threads would only get in each other's way

plt.style.use(Path(__file__).with_name("stiffml.mplstyle"))
RIGHT, WRONG, OTHER, DATA = "#1f5a99", "#c1440e", "#2e8b57", "#444444"

QUICK = os.environ.get("STIFFML_TUTORIALS") == "quick"
SHOWN_TO = 1.5 if QUICK else 4.0  # of the oscillator
COUNTS = (5, 10, 20) if QUICK else (5, 10, 20, 40, 80, 160)  # steps of Crank-Nicolson
DELTAS = np.geomspace(1e-1, 1e-10, 4) if QUICK else np.geomspace(1e-1, 1e-13, 13)  # distances of differences
EPSILONS = np.array([1.0, 0.06, 0.03] if QUICK else [1.0, 0.3, 0.1, 0.06, 0.03, 0.003])
OBSERVATIONS, OBSERVED_TO = (15, 1e3) if QUICK else (60, 1e5)  # s
WAYPOINTS = 10 if QUICK else 60
CHECKED_TO = 1e-2 if QUICK else 1.0  # s, of Robertson's reaction
RTOL_OF_TRUTH, MOST_STEPS = (1e-9, 100) if QUICK else (1e-10, 1500)  # of torchdiffeq
GUESS = (1.2, 0.9, 1.1) if QUICK else (5.0, 0.1, 8.0)  # of the constants, over their true values
CHECKPOINTS = ("stages", 32) if QUICK else ("stages", 64, 16, 8)
RTOL_OF_FIT = 1e-4 if QUICK else 1e-6

# %%
# A gradient in three lines
# -------------------------
#
# Van der Pol's oscillator, in variables without units, has one parameter, ε: the smaller it is, the
# stiffer. ``problem.func("eps")`` is its right-hand side as a module in which ε is trainable. We start on
# one of the slow branches, stop at T = 0.5, before the first jump, and call the sum of squares at the end a
# loss.

T = 0.5
t_ends = torch.tensor([0.0, T], dtype=torch.float64)
start = torch.tensor([2.0, -2 / 3], dtype=torch.float64)


def loss_of(y):
    return y[-1].square().sum()


func = problems.load("vanderpol", eps=0.1).func("eps")
loss = loss_of(stiffml.odeint(func, start, t_ends, method="bdf", rtol=1e-8, atol=1e-10))
loss.backward()
print(f"loss {loss.item():.6f}, dloss/deps {func.eps.grad.item():.6f}")

figure, panel = plt.subplots(figsize=(6.4, 3.0))
t_long = torch.linspace(0, SHOWN_TO, 400, dtype=torch.float64)
for eps, colour in ((0.1, RIGHT), (0.01, OTHER)):
    with torch.no_grad():
        y = stiffml.odeint(problems.load("vanderpol", eps=eps).func(), start, t_long, outputs="interpolate")
    panel.plot(t_long, y[:, 0], color=colour, label=f"ε = {eps:g}")
panel.axvspan(0, T, color="0.9", label="what we differentiate")
panel.set(xlabel="time", ylabel="position", title="Van der Pol's oscillator", ylim=(-2.4, 3.4))
panel.legend(loc="upper center", ncols=3)
plt.show()

# %%
# What happened in ``backward()``? There are two schools.
#
# * *Differentiate, then discretise*: derive the adjoint differential equation, and solve it backwards in
#   time with any integrator. This is the continuous adjoint, that of ``torchdiffeq.odeint_adjoint``.
# * *Discretise, then differentiate*: take the steps that were made as one long formula, and apply the chain
#   rule to that. This is the discrete adjoint, and stiffml's way.
#
# One step of Crank-Nicolson, forwards
# ------------------------------------
#
# A step of Crank-Nicolson from u_n to u_{n+1} solves
#
# .. math:: u_{n+1} = u_n + \frac{h}{2} \bigl( f(u_n, \theta) + f(u_{n+1}, \theta) \bigr),
#
# which is a nonlinear system for u_{n+1}. Newton's iteration needs the Jacobian J = ∂f/∂u, and torch has
# it:


def f(u, eps):
    position, velocity = u
    return torch.stack([velocity, ((1 - position**2) * velocity - position) / eps])


jacobian, f_theta = torch.func.jacrev(f, argnums=0), torch.func.jacrev(f, argnums=1)
identity = torch.eye(2, dtype=torch.float64)


def forwards(u, eps, h, steps):
    states = [u]
    for _ in range(steps):
        new = u + h * f(u, eps)
        for _ in range(20):
            residual = new - u - h / 2 * (f(u, eps) + f(new, eps))
            update = torch.linalg.solve(identity - h / 2 * jacobian(new, eps), residual)
            new = new - update
            if update.abs().max() < 1e-13:
                break
        states.append(u := new)
    return states


EPS = 0.1
eps = torch.tensor(EPS, dtype=torch.float64)
exact_path = dict(method="bdf", rtol=1e-11, atol=1e-13)
figure, panel = plt.subplots(figsize=(5.6, 3.0))
for count, colour, marker in ((5, WRONG, "o"), (20, RIGHT, "s")):
    ends = torch.linspace(0, T, count + 1, dtype=torch.float64)
    with torch.no_grad():
        exactly = stiffml.odeint(func, start, ends, **exact_path)
    off = (torch.stack(forwards(start, eps, T / count, count)) - exactly).abs()[1:, 1]
    panel.semilogy(ends[1:], off, marker + "-", color=colour, label=f"{count} steps")
panel.set(xlabel="time", ylabel="error of the velocity", title="our Crank-Nicolson, ε = 0.1")
panel.legend()
plt.show()

# %%
# The same step, backwards
# ------------------------
#
# With f_θ for ∂f/∂θ, the differentials of both sides of the formula are
#
# .. math::
#
#    \Bigl(I - \frac{h}{2} J_{n+1}\Bigr) \, du_{n+1} = \Bigl(I + \frac{h}{2} J_n\Bigr) \, du_n
#    + \frac{h}{2} \bigl(f_\theta(u_n) + f_\theta(u_{n+1})\bigr) \, d\theta.
#
# Let λ be the gradient of the loss with respect to the state, and g that with respect to θ. Pulling λ
# through this equation gives one step of the adjoint:
#
# .. math::
#
#    \Bigl(I - \frac{h}{2} J_{n+1}\Bigr)^{\!\top} \mu &= \lambda_{n+1} \\
#    g &\leftarrow g + \frac{h}{2} \bigl(f_\theta(u_n) + f_\theta(u_{n+1})\bigr)^{\!\top} \mu \\
#    \lambda_n &= \Bigl(I + \frac{h}{2} J_n\Bigr)^{\!\top} \mu
#
# Two things are worth a second look. A linear system is solved backwards too, with the transposed matrix of
# Newton's iteration: the adjoint of an implicit step is implicit, and as stable as the step. And the two
# halves belong to different states: the matrix to be solved with is taken at the *end* of the step, the one
# that multiplies at its *start*. With ``slip=True``, the code makes the mistake of taking all at the start.


def backwards(states, eps, h, slip=False):
    lams, g = [2 * states[-1]], 0.0  # the gradient of the loss at the end
    for u, new in zip(states[-2::-1], states[:0:-1], strict=True):
        end = u if slip else new
        mu = torch.linalg.solve((identity - h / 2 * jacobian(end, eps)).T, lams[0])
        g = g + h / 2 * (f_theta(u, eps) + f_theta(end, eps)) @ mu
        lams.insert(0, (identity + h / 2 * jacobian(u, eps)).T @ mu)
    return torch.stack(lams), g


lams, _ = backwards(forwards(start, eps, T / 40, 40), eps, T / 40)
figure, panel = plt.subplots(figsize=(5.6, 3.0))
panel.plot(np.linspace(0, T, 41), lams[:, 0], "o-", ms=3, color=RIGHT, label="position")
panel.plot(np.linspace(0, T, 41), lams[:, 1], "s-", ms=3, color=OTHER, label="velocity")
panel.set(
    xlabel="time", ylabel="gradient of the loss", title="λ: what the loss owes to the state at each time"
)
panel.legend()
plt.show()

# %%
# Read the picture from right to left. The gradient with respect to the velocity starts at twice its value
# and is almost forgotten after a few multiples of ε: the velocity returns to its slow value so fast that an
# earlier one hardly matters. A stiff adjoint decays on its way back, and that is what makes it easy: for an
# implicit method, that is.
#
# ``stiffml.solve`` with ``method="cn"`` and ``Grid(steps)`` takes the same steps. The two gradients should
# then agree to rounding, for every number of steps, however coarse.

func = problems.load("vanderpol", eps=EPS).func("eps")
tight = stiffml.Newton(rtol=1e-14, atol=1e-15)


def discrete(steps):
    """stiffml's gradients with respect to the initial state and ε."""
    y0 = start.clone().requires_grad_()
    y = stiffml.odeint(func, y0, t_ends, method="cn", steps=stiffml.Grid(steps), newton=tight)
    return torch.autograd.grad(loss_of(y), [y0, func.eps])


exact = discrete(1000)[1]
by_hand, slipped, of_stiffml = [], [], []
for count in COUNTS:
    h = T / count
    states = forwards(start, eps, h, count)
    lams, g = backwards(states, eps, h)
    by_hand.append(g)
    slipped.append(backwards(states, eps, h, slip=True)[1])
    state_gradient, eps_gradient = discrete(count)
    of_stiffml.append(eps_gradient)
    torch.testing.assert_close(g, eps_gradient, rtol=1e-10, atol=0)
    torch.testing.assert_close(lams[0], state_gradient, rtol=1e-10, atol=1e-12)

by_hand, slipped, of_stiffml = (torch.stack(g).numpy() for g in (by_hand, slipped, of_stiffml))
agreement = np.abs(by_hand / of_stiffml - 1)
slip_error = np.abs(slipped / of_stiffml - 1)
method_error = np.abs(of_stiffml / exact.item() - 1)
print("steps  by hand against stiffml  with the slip  what the method itself leaves")
for row in zip(COUNTS, agreement, slip_error, method_error, strict=True):
    print("{:5d}  {:23.1e}  {:13.1e}  {:29.1e}".format(*row))

figure, panel = plt.subplots(figsize=(6.4, 3.6))
h = T / np.array(COUNTS)
panel.loglog(h, slip_error, "o-", color=WRONG, label="with the slip")
panel.loglog(h, method_error, "s-", color=OTHER, label="stiffml, to the gradient of the exact solution")
panel.loglog(h, np.maximum(agreement, 1e-16), "D-", color=RIGHT, label="stiffml, to ours by hand")
panel.loglog(h, 0.3 * slip_error[0] * h / h[0], ":", color="0.5")
panel.loglog(h, 0.3 * method_error[0] * (h / h[0]) ** 2, ":", color="0.5")
panel.text(h[-1], 0.2 * slip_error[-1], "h", color="0.4", va="top")
panel.text(h[-1], 0.2 * method_error[-1], "h²", color="0.4", va="top")
panel.set(xlabel="step size h", ylabel="relative difference", title="dloss/dε of Crank-Nicolson runs")
panel.legend()
plt.show()

order = np.log2(slip_error[-2] / slip_error[-1])
print(f"the slip's error falls like h to the power {order:.2f}")
assert agreement.max() < 1e-10
assert 0.8 < order < 1.2

# %%
# The slip is a nasty one. It vanishes as h → 0, so that no test with small steps finds it, and it falls
# only like h, while the method itself is of order two. At the step sizes one can afford, an optimiser is
# told that the minimum is where it is not.
#
# Whom do you believe? Finite differences
# ---------------------------------------
#
# The derivative of a program can be had without any theory, from two runs. How well, depends on the
# distance δ between them: too large, and curvature spoils it; too small, and what rounding leaves in the
# loss is divided by δ. Here are central differences against the adjoint: for the fixed steps of
# Crank-Nicolson, for adaptive BDF, and for BDF where the perturbed runs repeat the steps of the unperturbed
# one (``steps=sol.steps``).


def run(eps, **arguments):
    func = problems.load("vanderpol", eps=eps).func("eps")
    sol = stiffml.solve(func, start, t_ends, **arguments)
    return loss_of(sol.y), func.eps, sol


adaptive = dict(method="bdf", rtol=1e-6, atol=1e-8)
held = dict(method="bdf", steps=run(EPS, **adaptive)[2].steps, newton=tight)
solvers = {
    "fixed steps": (dict(method="cn", steps=stiffml.Grid(50), newton=tight), "o-", RIGHT),
    "adaptive steps, rtol = 1e-6": (adaptive, "s-", WRONG),
    "the same steps, held": (held, "D-", OTHER),
}
figure, panel = plt.subplots(figsize=(6.4, 3.4))
adjoints, differences = {}, {}
for name, (arguments, style, colour) in solvers.items():
    loss, parameter, _ = run(EPS, **arguments)
    adjoints[name] = torch.autograd.grad(loss, parameter)[0].item()
    pairs = []
    with torch.no_grad():
        for delta in DELTAS:
            up, down = (run(EPS * (1 + s * delta), **arguments)[0] for s in (1, -1))
            pairs.append((up - down).item() / (2 * EPS * delta))
    differences[name] = np.array(pairs)
    off = np.abs(differences[name] / adjoints[name] - 1)
    panel.loglog(DELTAS, off, style, ms=4, color=colour, label=name)
panel.set(xlabel="relative perturbation δ of ε", ylabel="relative difference from the adjoint")
panel.set_title("central differences")
panel.legend()
plt.show()

# %%
# With fixed steps it is the V of the textbooks: the difference falls like δ² until rounding takes over, and
# at the best δ it confirms the adjoint to about nine digits. With adaptive steps it stops at 1.4e-4. Is the
# adjoint wrong by that much, then? Let us see how the runs near ε differ:

shifts = np.linspace(-1e-3, 1e-3, 5 if QUICK else 21)
with torch.no_grad():
    near = [run(EPS * (1 + shift), **adaptive)[2] for shift in shifts]
counts = {(sol.stats.accepted, sol.stats.rejected) for sol in near}
ends = np.array([sol.steps.ends[0] for sol in near]) * T
losses = np.array([loss_of(sol.y).item() for sol in near])
parabola = np.polynomial.Polynomial.fit(shifts, losses, 2)

figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.2))
for step, marker in ((20, "o"), (40, "s"), (60, "D")):
    moved = (ends[:, step] - ends[len(ends) // 2, step]) * 1e3
    left.plot(1e3 * shifts, moved, marker, ms=4, mfc="none", label=f"end of step {step}")
left.set(xlabel="relative change of ε [1e-3]", ylabel="moves by [1e-3]", title="the steps follow ε")
left.legend(fontsize=8)
right.plot(1e3 * shifts, (losses - parabola(shifts)) * 1e12, "o-", ms=4, color=RIGHT)
right.set(xlabel="relative change of ε [1e-3]", ylabel="loss − parabola [1e-12]", title="and smoothly")
plt.show()

print(f"steps accepted and rejected in {len(near)} runs: {counts}")
assert len(counts) == 1, "no run takes a step more or less than another"
assert np.abs(losses - parabola(shifts)).max() < 1e-9

# %%
# There is nothing jagged here. All runs take the same number of steps, 69, and the steps move smoothly with
# ε: the error control makes them a little longer or shorter. So the loss of the *program* has one more
# dependence on ε, through the sizes of the steps, and differences of adaptive runs see it. The adjoint holds
# the steps and leaves it out: with the steps held, differences agree with it (the third curve above).
#
# Which of the two is better? What we are after is neither, but the derivative of the exact solution. A run
# with a tight tolerance has it:

reference = run(EPS, method="bdf", rtol=1e-11, atol=1e-13)
exact_gradient = torch.autograd.grad(reference[0], reference[1])[0].item()
plateau = differences["adaptive steps, rtol = 1e-6"][(DELTAS < 1e-3) & (DELTAS > 1e-8)]
errors = {
    "adjoint": abs(adjoints["adaptive steps, rtol = 1e-6"] / exact_gradient - 1),
    "differences": np.abs(plateau / exact_gradient - 1).min(),
}
print({name: f"{error:.1e}" for name, error in errors.items()})

figure, panel = plt.subplots(figsize=(5.6, 1.8))
panel.barh(list(errors), list(errors.values()), color=[RIGHT, WRONG])
panel.set(xscale="log", xlim=(1e-7, 1e-3), xlabel="relative error of dloss/dε, rtol = 1e-6")
panel.invert_yaxis()
plt.show()

best = {
    name: np.abs(differences[name] / adjoints[name] - 1).min()
    for name in ("fixed steps", "the same steps, held")
}
assert max(best.values()) < 1e-7
assert errors["adjoint"] < errors["differences"] / 3

# %%
# The adjoint, by a factor of nine. How the sizes of the steps depend on ε is no property of the solution:
# it says how the *error* of the run changes with ε. The adjoint of the steps taken is as good as the steps.
#
# ``stiffml.check_gradients`` does this comparison properly for your own function: perturbed runs repeat the
# recorded steps, and the remainder L(θ + εd) − L(θ) − ε g·d of the first-order expansion has to fall like
# ε².

robertson = problems.load("robertson")
report = stiffml.check_gradients(
    robertson.func("k1", "k2", "k3"),
    robertson.initial_state(),
    torch.tensor([0.0, 1e-3, CHECKED_TO], dtype=torch.float64),
    method="bdf",
    rtol=1e-3,
    atol=1e-4 * torch.tensor(robertson.scale),
)
print(report)
assert report.ok

# %%
# A "Taylor rate" of 2 is a right gradient, one of 1 is a wrong one. The picture shows both, for our
# Crank-Nicolson run with ten steps, where the two gradients differ by about a tenth:

count = 10
pair = {"right": float(by_hand[1]), "with the slip": float(slipped[1])}
scales = np.geomspace(1e-1, 1e-6, 11)
figure, panel = plt.subplots(figsize=(5.6, 3.2))
with torch.no_grad():
    arguments = dict(method="cn", steps=stiffml.Grid(count), newton=tight)
    base = run(EPS, **arguments)[0].item()
    changes = np.array([run(EPS * (1 + s), **arguments)[0].item() - base for s in scales])
rates = {}
for (name, gradient), style, colour in zip(pair.items(), ("o-", "s-"), (RIGHT, WRONG), strict=True):
    remainder = np.abs(changes - EPS * scales * gradient)
    panel.loglog(scales, remainder, style, color=colour, label=name)
    rates[name] = np.log(remainder[2] / remainder[6]) / np.log(scales[2] / scales[6])
panel.set(xlabel="relative perturbation of ε", ylabel="remainder of the expansion", title="Taylor's test")
panel.legend()
plt.show()

print({name: f"rate {rate:.2f}" for name, rate in rates.items()})
assert rates["right"] > 1.9
assert rates["with the slip"] < 1.3

# %%
# The continuous adjoint, and ``underflow in dt``
# -----------------------------------------------
#
# Now the other school. The continuous adjoint integrates λ' = −Jᵀλ from the end of the span to its start,
# and in that direction λ decays. But it needs the states on its way, and in the form of
# ``torchdiffeq.odeint_adjoint`` it gets them by integrating the system itself backwards. A stiff system
# forgets its past at rate ``|λ|``, the fast eigenvalue: that is what stiff means. Backwards, it *invents* a
# past, and any error grows like ``exp(|λ| t)``. Look at the system alone, sent from 0 to T and back again:

figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.0), sharey=True)
there = torch.linspace(0, T, WAYPOINTS, dtype=torch.float64)
tolerances = dict(method="dopri5", rtol=1e-7, atol=1e-9)
for panel, eps_value in zip(panels, (1.0, 0.06, 0.03), strict=True):
    field = problems.load("vanderpol", eps=eps_value).func()
    with torch.no_grad():
        way = torchdiffeq.odeint(field, start, there, **tolerances)
        panel.plot(there, way[:, 1], color=RIGHT, lw=4, alpha=0.5, label="there")
        back_t, back = [T], [way[-1]]
        for t1, t0 in zip(there.flip(0)[:-1], there.flip(0)[1:], strict=True):
            if abs(back[-1][1]) > 3:
                break
            back.append(torchdiffeq.odeint(field, back[-1], torch.stack([t1, t0]), **tolerances)[-1])
            back_t.append(float(t0))
    panel.plot(back_t, torch.stack(back)[:, 1], color=WRONG, lw=1.2, label="and back")
    panel.set(xlabel="time", title=f"ε = {eps_value:g}", ylim=(-2, 1))
panels[0].set_ylabel("velocity")
panels[0].legend()
plt.show()

# %%
# With ε = 1 the way back is the way there. With 0.06 it leaves the path shortly before it is home, with
# 0.03 before it is half way. An adaptive integrator that follows such a path takes ever smaller steps,
# until they are smaller than rounding: ``underflow in dt``. Or it arrives, with the gradient of something
# else.
#
# How far does it get? We compare gradients over a range of ε. The truth comes from backpropagation through
# the steps of ``torchdiffeq.odeint`` (without ``_adjoint``) at a tolerance of 1e-10. That is a discrete
# adjoint too, of an explicit method, and it is right for every ε.


def gradient_and_cost(solver, eps, **arguments):
    """dloss/deps (NaN if it fails), calls of f, seconds, and the message of a failure."""
    func, calls, failure = problems.load("vanderpol", eps=eps).func("eps"), [0], ""
    func.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    before = time.process_time()
    try:
        loss_of(solver(func, start, t_ends, **arguments)).backward()
    except AssertionError as error:
        failure = str(error)
    gradient = np.nan if failure else func.eps.grad.item()
    return gradient, calls[0], time.process_time() - before, failure


accurate, limit = dict(method="dopri5", rtol=RTOL_OF_TRUTH, atol=1e-11), dict(max_num_steps=MOST_STEPS)
true = np.array([gradient_and_cost(torchdiffeq.odeint, eps, **accurate)[0] for eps in EPSILONS])
continuous = [
    gradient_and_cost(torchdiffeq.odeint_adjoint, eps, adjoint_options=limit, **tolerances)
    for eps in EPSILONS
]

figure, panel = plt.subplots(figsize=(6.4, 3.2))
panel.semilogx(EPSILONS, true, "-", color=RIGHT, lw=4, alpha=0.5, label="truth")
for eps, (gradient, _, _, failure) in zip(EPSILONS, continuous, strict=True):
    if abs(gradient) < 3:
        panel.plot(eps, gradient, "o", color=WRONG)
    elif failure:
        panel.plot(eps, 1.9, "x", color=WRONG, mew=2)
        panel.text(eps, 1.6, failure.rpartition(" ")[0], color=WRONG, ha="center", va="top", fontsize=8)
    else:
        panel.annotate(
            f"off scale:\n{gradient:.0e}",
            (eps, 2.6 * np.sign(gradient)),
            (eps, 1.2 * np.sign(gradient)),
            color=WRONG,
            ha="center",
            arrowprops={"arrowstyle": "->", "color": WRONG},
        )
panel.plot([], [], "o", color=WRONG, label="continuous adjoint")
panel.set(xlabel="ε (stiffer →)", ylabel="dloss/dε", ylim=(-2.6, 2.6), xlim=(2, 0.0015))
panel.legend(loc="lower left")
plt.show()

# %%
# All is well as long as an error in the state has no room to grow on its way back. By the time of the
# fourth point it has, and the gradient has the wrong sign; nothing says so. Then the steps underflow, or a
# number arrives that is none. How much room there is, can be told beforehand: the exponential of the
# integral of the fast rate, (y² − 1) / ε, times the tolerance. Here it is in a table, beside the discrete
# adjoints:

results = {
    "continuous adjoint": continuous,
    "through dopri5": [gradient_and_cost(torchdiffeq.odeint, eps, **tolerances) for eps in EPSILONS],
    "stiffml, bdf": [
        gradient_and_cost(stiffml.odeint, eps, method="bdf", rtol=1e-7, atol=1e-9) for eps in EPSILONS
    ],
}
print("  eps   growth           true", *(f"{name:>18}" for name in results))
for eps, truth, *row in zip(EPSILONS, true, *results.values(), strict=True):
    with torch.no_grad():
        position = stiffml.odeint(problems.load("vanderpol", eps=eps).func(), start, there)[:, 0]
    growth = torch.trapezoid(position**2 - 1, there).item() / eps / np.log(10)
    cells = [f"{failure[:15] or f'{gradient:.7g}':>18}" for gradient, _, _, failure in row]
    print(f"{eps:5g}   {f'1e{growth:.0f}':6} {truth:14.7f}", *cells)

figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.5))
errors, calls = {}, {}
for (name, rows), colour, marker in zip(results.items(), (WRONG, OTHER, RIGHT), "osD", strict=True):
    gradient, calls[name], seconds = np.array([row[:3] for row in rows]).T
    errors[name] = np.abs(gradient / true - 1)
    shown = errors[name] < 1e3
    panels[0].loglog(EPSILONS[shown], errors[name][shown], marker + "-", color=colour)
    panels[1].loglog(EPSILONS, seconds, marker + "-", color=colour, label=name)
panels[0].set(
    xlim=(2, 0.0015),
    ylim=(1e-9, 1e3),
    xlabel="ε (stiffer →)",
    ylabel="relative error of dloss/dε",
    title="error",
)
panels[1].set(
    xlim=(2, 0.0015), xlabel="ε (stiffer →)", ylabel="processor time [s]", title="cost of a gradient"
)
panels[0].text(0.05, 10, "then fails", color=WRONG)
panels[1].legend(loc="upper left")
plt.show()

assert errors["continuous adjoint"][0] < 1e-5, "not stiff: both must agree"
assert errors["stiffml, bdf"].max() < 1e-4
assert not (errors["continuous adjoint"][EPSILONS < 0.1] < 1).any()
assert calls["through dopri5"][-1] > 3 * calls["through dopri5"][0]
assert calls["stiffml, bdf"][-1] < 2 * calls["stiffml, bdf"][0]

# %%
# To be fair to all three: where the problem is not stiff, the continuous adjoint is right, needs no memory
# for the path, and costs no more. Backpropagation through explicit steps is right whenever the forward run
# is; it just pays for stability, with steps and with memory, in proportion to 1/ε. The discrete adjoint of
# an implicit method costs nearly the same for every ε.
#
# Fitting Robertson's rate constants
# ----------------------------------
#
# Now to work. We observe A, B and C at sixty times between 1e-5 and 1e5 seconds, with normal errors of 1 %
# of the typical size of each species, and look for the three rate constants that made them. They range over
# nine orders of magnitude, so that the parameters to learn are their logarithms.

observed_span = robertson.make(t_span=(0.0, OBSERVED_TO))
times = observed_span.times(OBSERVATIONS, first=1e-5)
data = torch.tensor(observed_span.dataset(OBSERVATIONS, noise=0.01, seed=0, times=times)["observed"].values)
scale = torch.tensor(robertson.scale)
true_k = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64)
first_guess = true_k * torch.tensor(GUESS, dtype=torch.float64)
y0 = robertson.initial_state()
how = dict(method="bdf", rtol=RTOL_OF_FIT, atol=1e-3 * RTOL_OF_FIT * scale, outputs="interpolate")


class Kinetics(torch.nn.Module):
    """Robertson's equations with log k as parameters."""

    def __init__(self, k):
        super().__init__()
        self.log_k = torch.nn.Parameter(k.log())

    def forward(self, t, y):
        k1, k2, k3 = self.log_k.exp()
        return robertson.rhs(t, y, {"k1": k1, "k2": k2, "k3": k3})


def draw(**models):
    dense = torch.cat([torch.zeros(1), torch.logspace(-5, np.log10(OBSERVED_TO), 200)]).double()
    with torch.no_grad():
        curves = {name: stiffml.odeint(model, y0, dense, **how) for name, model in models.items()}
    for i, (panel, species) in enumerate(zip(panels, robertson.components, strict=True)):
        panel.semilogx(times[1:], data[1:, i], "o", color=DATA, ms=3, mfc="none", label="data")
        for (name, y), colour in zip(curves.items(), (WRONG, RIGHT), strict=False):
            panel.semilogx(dense[1:], y[1:, i], color=colour, label=name)
        panel.set(xlabel="time [s]", title=f"species {species}")
        panel.ticklabel_format(axis="y", scilimits=(-2, 2))
    panels[0].set_ylabel("concentration")
    panels[0].legend()


figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.0))
draw(guess=Kinetics(first_guess))
plt.show()

# %%
# The residuals go in units of their own errors. Without this, B, of which there is never more than 4e-5,
# would not count at all, and most of what the data say about k2 would be lost. Our first optimiser is
# L-BFGS, with one discrete adjoint for each evaluation of the loss:


def residuals(y):
    """Differences from the data in units of their standard deviation, without those of the start."""
    return ((y - data) / (0.01 * scale))[1:]


model = Kinetics(first_guess)
optimizer = torch.optim.LBFGS(
    model.parameters(), max_iter=40, max_eval=40, tolerance_change=1e-7, line_search_fn="strong_wolfe"
)
losses_lbfgs, path = [], []


def closure():
    optimizer.zero_grad()
    loss = residuals(stiffml.odeint(model, y0, times, **how)).square().mean()
    loss.backward()
    losses_lbfgs.append(loss.item())
    path.append((model.log_k.detach().exp() / true_k).numpy())
    return loss


optimizer.step(closure)
fit_lbfgs = model.log_k.detach().exp()
print(f"L-BFGS: {len(losses_lbfgs)} evaluations, loss {losses_lbfgs[0]:.0f} -> {losses_lbfgs[-1]:.4f}")

figure, panel = plt.subplots(figsize=(5.6, 3.0))
for name, values, style in zip(("k1", "k2", "k3"), np.array(path).T, ("o-", "s--", "D-."), strict=True):
    panel.semilogy(range(1, len(path) + 1), values, style, ms=4, label=name)
panel.set(
    xlabel="evaluation of the loss", ylabel="k / true k", title="L-BFGS on its way", xticks=range(1, 20, 3)
)
panel.legend()
plt.show()

# %%
# With three parameters one can do better. ``stiffml.sensitivities`` goes forwards and gives all of dy/d log
# k, from which Gauss and Newton make a step d out of the residuals r and their Jacobian J: solve JᵀJ d =
# −Jᵀr. A little damping (Levenberg's) keeps the first steps in bounds. As a gift, the inverse of JᵀJ
# estimates the covariance of the result.

model = Kinetics(first_guess)
losses_gauss = []
for _ in range(20):
    sens = stiffml.sensitivities(model, y0, times, **how)
    r = residuals(sens.solution.y.detach()).flatten()
    J = (sens.wrt["log_k"] / (0.01 * scale[:, None]))[1:].reshape(-1, 3)
    normal = J.T @ J
    losses_gauss.append(r.square().mean().item())
    step = torch.linalg.solve(normal + 0.01 * normal.diag().diag(), -J.T @ r).clamp(-2, 2)
    with torch.no_grad():
        model.log_k += step
    if step.abs().max() < 1e-4:
        break
print(f"Gauss-Newton: {len(losses_gauss)} evaluations, loss {losses_gauss[0]:.0f} -> {losses_gauss[-1]:.4f}")

fit = model.log_k.detach().exp()
standard_errors = normal.inverse().diag().sqrt()
print("     true      first guess   L-BFGS       Gauss-Newton     its error   standard error")
for i in range(3):
    print(
        f"k{i + 1}   {true_k[i]:<9.4g} {first_guess[i]:<13.4g} {fit_lbfgs[i]:<12.5g} {fit[i]:<12.5g}"
        f"{100 * (fit[i] / true_k[i] - 1):12.2f} %  {100 * standard_errors[i]:13.2f} %"
    )

figure, (*panels, last) = plt.subplots(1, 4, figsize=(11.5, 3.1))
draw(guess=Kinetics(first_guess), fit=model)
for name, losses, colour in (("L-BFGS", losses_lbfgs, OTHER), ("Gauss-Newton", losses_gauss, RIGHT)):
    last.semilogy(
        range(1, len(losses) + 1), losses, "o-" if colour == RIGHT else "s--", ms=4, color=colour, label=name
    )
last.set(xlabel="solves with derivatives", title="mean square of residuals")
last.legend()
plt.show()

# %%
# The mean square ends near 1, as it must where the residuals are in units of the noise and the model is
# right, and each constant is found to within a few of its standard errors.

assert 0.7 < losses_gauss[-1] < 1.3
assert (fit / true_k - 1).abs().max() < 0.05
assert ((fit / true_k).log() / standard_errors).abs().max() < 4
torch.testing.assert_close(fit_lbfgs, fit, rtol=1e-2, atol=0)

# %%
# What the backward pass keeps
# ----------------------------
#
# A discrete adjoint needs the states of the forward run. For three species that is nothing; for a field on
# a fine grid it may be all of your memory. ``adjoint=Discrete(checkpoints=n)`` keeps at most n states and
# recomputes the others when they are needed. The gradient is the same, and the bill is in time:

func = robertson.func("k1", "k2", "k3")
short = torch.tensor([0.0, 1.0 if QUICK else 40.0], dtype=torch.float64)
gradients, costs = {}, {}
for checkpoints in CHECKPOINTS:
    adjoint = stiffml.Discrete(checkpoints=checkpoints)
    sol = stiffml.solve(func, y0, short, method="cn", rtol=1e-3, atol=1e-9 * scale, adjoint=adjoint)
    gradient = torch.autograd.grad(sol.y[-1, 0], list(func.parameters()))
    gradients[checkpoints] = torch.stack([g * p for g, p in zip(gradient, func.parameters(), strict=True)])
    costs[checkpoints] = sol.stats.adjoint.rhs_evals
    print(f"{checkpoints!s:10} {costs[checkpoints]:6d} evaluations backwards, {sol.stats.accepted} steps")

figure, panel = plt.subplots(figsize=(5.2, 2.6))
panel.barh([str(c) for c in costs], list(costs.values()), color=RIGHT)
panel.set(xlabel="evaluations of f in the backward pass", ylabel="checkpoints")
panel.invert_yaxis()
plt.show()

for gradient in gradients.values():
    torch.testing.assert_close(gradient, gradients["stages"], rtol=1e-6, atol=1e-9)

# %%
# To take home:
#
# * The adjoint of an implicit step is one linear solve with the transposed matrix, and as stable as the
#   step.
# * It belongs to the steps taken: exact for them, whatever their error. Check it with differences along
#   those steps.
# * A continuous adjoint that integrates the states backwards has no chance on a stiff system.
# * Parameters in logarithms, residuals in units of their errors, and forward sensitivities where there are
#   only a few parameters.

# %%
# Sources
# -------
#
# * E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd edition, Springer, 1996: van der
#   Pol's equation in chapter VI.
# * R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural ordinary differential equations, NeurIPS
#   2018, arXiv 1806.07366: the continuous adjoint.
# * H. Zhang, W. Zhao, PNODE, arXiv 2206.01298: discrete adjoints of implicit time steppers.
#
# %%
# Exercises
# ---------
#
# 1. Write the adjoint of backward Euler in ``backwards``, and compare with ``method="beuler"``. Which of the
#    two halves is left?
#
#    *Answer.* The half that belongs to the end of the step: (I − h J_{n+1})ᵀ μ = λ_{n+1}, g += h
#    f_θ(u_{n+1})ᵀ μ, and λ_n = μ. With ten steps it agrees with stiffml's to rounding, 2e-14.
#
# 2. Leave the times before 0.1 s out of the data. Which constants, or which combination of them, can you
#    still tell? (Look at the eigenvectors of JᵀJ.)
#
#    *Answer.* All three, less well: their standard errors grow from 0.9, 0.9 and 1.4 % to 1.9, 1.3 and 2.6 %.
#    The worst direction is one in which all grow together (0.55, 0.35, 0.76), that is the speed of the whole
#    reaction, known to 3.3 % in place of 1.8 %.
#
# 3. Divide the residuals of all species by the same number, 0.01. What happens to k2, and what to its
#    standard error?
#
#    *Answer.* After 30 iterations k2 is 2.2 times its true value, k3 1.7 times, and still on their way. The
#    standard error of log k2 is 127: it is not determined at all. The eigenvector is (0, 0.89, 0.45), twice
#    as much of log k2 as of log k3: B, from which the data no longer say anything, drops out of the slow
#    reaction of A and C together with one constant, and what is left depends on k1 and k3² / k2 alone.

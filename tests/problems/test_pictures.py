"""Pictures show what a solution does: its peaks, its decades, its references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import problems
import stiffml
from problems.pictures import _between
from stiffml.plotting import Figure, series


def lines(figure: Figure, panel: int) -> tuple[np.ndarray, np.ndarray]:
    (line,) = [one for one in figure.axes[panel].lines if len(one.get_xdata()) > 2]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_the_peaks_between_outputs_are_drawn() -> None:
    """The jumps of van der Pol's oscillator and HIRES's first second lie between the 61 outputs."""
    problem = problems.load("vanderpol")
    solution = problem.solve()
    assert solution.y[:, 1].abs().max() < 100
    figure = problem.plot(solution)
    x, velocity = lines(figure, 1)
    # ε v + y³/3 − y is constant in a jump, which begins at |y| = 1 and is fastest at y = ∓1.
    assert np.abs(velocity).max() == pytest.approx(4 / 3 * 1e6, rel=0.01)
    assert figure.axes[1].get_yscale() == "symlog"
    assert set(solution.t.tolist()) <= set(x.tolist())
    t = solution.t.numpy()
    ends = np.concatenate(
        [t[i] + each * (t[i + 1] - t[i]) for i, each in enumerate(solution.steps.ends)]  # type: ignore[union-attr]
    )
    assert np.abs(x[:, None] - ends).min(axis=0).max() < 1e-12, "all steps are in the grid"
    hires = problems.load("hires")
    figure = hires.plot(hires.solve())
    assert lines(figure, 1)[1].max() == pytest.approx(0.1325, rel=0.01)
    assert figure.axes[1].get_xscale() == "log"


def test_drawn_states_are_those_of_the_solution() -> None:
    problem = problems.load("hires")
    solution = problem.solve()
    x, y = lines(problem.plot(solution), 2)
    known = solution.interpolate(torch.from_numpy(x))[:, 2].numpy()
    np.testing.assert_array_equal(y, known)


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("e5", "log", ("log", "log", "log", "log")),
        ("robertson", "log", ("log", "log", "linear")),
        ("orego", "linear", ("log", "log", "log")),
        ("prothero", "linear", ("linear",)),
        ("pendulum", "linear", ("linear",) * 5),
    ],
)
def test_axes_are_logarithmic_where_decades_matter(name: str, x: str, y: tuple[str, ...]) -> None:
    problem = problems.load(name)
    figure = problem.plot(problem.solve())
    assert {panel.get_xscale() for panel in figure.axes} == {x}
    assert tuple(panel.get_yscale() for panel in figure.axes) == y


def test_references_are_named_and_every_column_has_numbers() -> None:
    problem = problems.load("akzo")  # 6 components: two columns end in the first row
    figure = problem.plot(problem.solve())
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "solution at all steps"
    assert texts[1].startswith("reference: Test Set for Initial Value Problem Solvers")
    figure.canvas.draw()
    numbered = [any(tick.get_visible() for tick in panel.get_xticklabels()) for panel in figure.axes]
    assert numbered == [False, False, True, True, True, True]
    assert [panel.get_xlabel() for panel in figure.axes] == ["", "", *["time [min]"] * 4]


def test_a_reference_below_the_axis_is_an_arrowhead() -> None:
    problem = problems.load("e5")  # y1 and y4 end at 0
    figure = problem.plot(problem.solve())
    assert [panel.lines[1].get_marker() for panel in figure.axes] == ["v", "o", "o", "v"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "reference, below the axis" in texts


def test_fields_are_drawn_between_steps_and_colours_are_not_spent_on_the_start() -> None:
    problem = problems.load("brusselator").make(size=8)
    solution = problem.solve()
    figure = problem.plot(solution)
    start, *later = [panel.collections[0] for panel in figure.axes[:4]]
    assert start.norm.vmax < start.get_array().max(), "the first state is larger than all others drawn"
    assert start.norm.vmax == pytest.approx(max(one.get_array().max() for one in later))
    burgers = problems.load("burgers").make(size=64)
    image = burgers.plot(burgers.solve()).axes[0].collections[0]
    assert image.norm.vmax == pytest.approx(image.get_array().max()), "here the start is like what follows"


def test_states_between_times_are_linear_in_both_directions() -> None:
    times, states = np.array([0.0, 1.0, 3.0]), np.array([[0.0], [2.0], [6.0]])
    np.testing.assert_allclose(_between(times, states, np.array([0.0, 0.5, 2.0, 3.0]))[:, 0], [0, 1, 4, 6])
    np.testing.assert_allclose(_between(times[::-1], states[::-1], np.array([2.0]))[:, 0], [4])


def test_both_sides_of_a_jump_are_drawn() -> None:
    def double(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -y if float(t) < 1 else -2 * y

    t = torch.tensor([0.0, 2.0], dtype=torch.float64)
    y0 = torch.ones(1, dtype=torch.float64)
    solution = stiffml.solve(double, y0, t, breakpoints=torch.tensor([1.0], dtype=torch.float64))
    x, y = lines(solution.plot(), 0)
    assert 1.0 in x
    assert np.nextafter(1.0, 2.0) in x
    assert y[-1] == pytest.approx(np.exp(-3), rel=1e-4)


def test_outputs_are_points_where_steps_are_not_known_any_more() -> None:
    weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    y0 = torch.ones(1, dtype=torch.float64)
    func = torch.nn.Module()
    func.weight, func.forward = weight, lambda t, y: -weight * y  # type: ignore[assignment]
    solution = stiffml.solve(func, y0, t, method="dopri5")
    assert solution.plot().axes[0].lines[0].get_linestyle() == "-"
    with torch.no_grad():
        weight.fill_(2.0)
    line = solution.plot().axes[0].lines[0]
    if line.get_linestyle() == "None":  # dopri5's interpolant asks func
        assert len(line.get_xdata()) == 5


def test_figures_show_in_notebooks() -> None:
    problem = problems.load("prothero")
    assert problem.plot(problem.solve())._repr_png_().startswith(b"\x89PNG")


def test_lines_differ_without_colour() -> None:
    styles = [series(number) for number in range(14)]
    assert len({(one["marker"], one["ls"]) for one in styles}) == 14

"""The papers' methods on a small network that was really trained: their losses fall, their statistics arrive."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from converter.demo import digits, to_onnx, train
from converter.graph import Graph
from converter.inputs.drawing import draw
from converter.inputs.plans import InputKind, Scaling, assemble
from converter.inputs.recognition import describe_inputs
from converter.normalization import normalize
from converter.options import Method
from converter.reconstruction import reconstruct
from converter.scores import Score
from converter.synthesis import METHODS, Problem, Samples, synthesize
from converter.synthesis.genie import swings
from converter.synthesis.gznq import gates
from converter.synthesis.gzsq import Rule, additive_targets, synthesize_gzsq, z_score
from converter.synthesis.statistics import Target, find_targets, measured, normalized_distance, propagated_targets
from converter.synthesis.zeroq import Variant, synthesize_zeroq

STEPS = 60
COUNT = 32
PAPERS = (Method.ZEROQ, Method.GZSQ, Method.GZNQ, Method.GENIE)
KINDS = ("batch norm", "folded by the exporter")


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    (pictures, labels), _ = digits()
    return to_onnx(train(pictures, labels, epochs=4))


@pytest.fixture(scope="module")
def problems(trained: onnx.ModelProto) -> dict[str, Problem]:
    """The same function with its BatchNorm, and as a file that never shows any."""
    normalized = normalize(trained)
    folded = normalize(normalized.model)
    assert normalized.batch_norms
    assert not folded.batch_norms
    made = {}
    for kind, each in zip(KINDS, (normalized, folded), strict=True):
        network, graph = reconstruct(each.model), Graph(each.model)
        (plan,) = describe_inputs(graph, {})
        plans = (replace(plan, kind=InputKind.PICTURE, scaling=Scaling("0..1", (1.0,), (0.0,)), settled=True),)
        logits = graph.outputs[0].name
        made[kind] = Problem(
            network,
            graph,
            plans,
            logits,
            (Score(logits, 1),),
            each.batch_norms,
            400_000,
            20_000,
            1e6,
            time.monotonic() + 1e6,
        )
    return made


def distance(problem: Problem, samples: dict[str, np.ndarray], targets: tuple[Target, ...]) -> float:
    """From the statistics of the samples' activations to the targets."""
    feeds = {name: torch.from_numpy(value) for name, value in assemble(problem.plans, samples).items()}
    with torch.no_grad():
        return float(normalized_distance(problem.network.run(feeds, [each.tensor for each in targets]), targets))


def noise(problem: Problem) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {plan.name: draw(plan, COUNT, generator, noise=True) for plan in problem.plans}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", PAPERS)
def test_loss_falls_and_statistics_arrive(problems: dict[str, Problem], method: Method, kind: str) -> None:
    problem = problems[kind]
    shares: list[float] = []
    made = METHODS[method](replace(problem, progress=shares.append), COUNT, 0, STEPS)
    assert len(made.loss) == STEPS
    early, late = np.mean(made.loss[:3]), np.mean(made.loss[-5:])
    assert late < 0.6 * early
    weights_only = method is Method.GZSQ
    targets = propagated_targets(problem, 0) if weights_only else find_targets(problem, 0)
    assert distance(problem, made.raw, targets) < 0.5 * distance(problem, noise(problem), targets)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("method", PAPERS)
def test_same_seed_same_samples(problems: dict[str, Problem], method: Method) -> None:
    problem = problems[KINDS[1]]

    def made(seed: int) -> np.ndarray:
        torch.rand(1)  # the state of torch's own numbers does not matter
        samples = METHODS[method](problem, 8, seed, 3)
        (value,) = samples.raw.values()
        assert value.min() >= 0
        assert value.max() <= 1
        return value

    first, again, other = made(0), made(0), made(1)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize("method", PAPERS)
def test_an_exhausted_budget_still_gives_samples(problems: dict[str, Problem], method: Method) -> None:
    hurried = replace(problems[KINDS[0]], seconds=0.0)
    made: Samples = METHODS[method](hurried, 8, 0, STEPS)
    assert made.loss == ()
    assert all(np.isfinite(value).all() and len(value) == 8 for value in made.raw.values())


def test_steps_follow_the_size_of_the_network(problems: dict[str, Problem]) -> None:
    large = replace(problems[KINDS[0]], multiply_adds=10**9, seconds=30.0)
    assert len(METHODS[Method.ZEROQ](large, 8, 0, 500).loss) == pytest.approx(30.0 / (3 * 10**9 * 8 / 20e9), abs=1)


def test_targets_of_batch_norm_are_the_real_moments(problems: dict[str, Problem]) -> None:
    """What training left in the file describes the real digits' activations in the folded network."""
    problem = problems[KINDS[0]]
    (pictures, _), _ = digits()
    targets = find_targets(problem, 0)
    assert {each.source for each in targets} == {"BatchNorm"}
    with torch.no_grad():
        real = problem.network.run({"image": torch.from_numpy(pictures)}, [each.tensor for each in targets])
    assert float(normalized_distance(real, targets)) < 0.1


def test_without_batch_norm_targets_are_propagated(problems: dict[str, Problem]) -> None:
    targets = find_targets(problems[KINDS[1]], 0)
    assert {each.source for each in targets} == {"propagation"}
    assert len(targets) == 4


def test_folded_units_are_those_of_the_normalization_input(problems: dict[str, Problem]) -> None:
    problem = problems[KINDS[0]]
    for statistics, target in zip(problem.batch_norms, find_targets(problem, 0), strict=True):
        recorded = np.sqrt(statistics.running_variance)
        alive = target.unit.numpy() > 0
        np.testing.assert_allclose((target.std * target.unit).numpy()[alive], recorded[alive], rtol=1e-3)


def test_zeroq_as_its_code_starts_grey_and_asks_every_sample(problems: dict[str, Problem]) -> None:
    problem = problems[KINDS[0]]
    grey = synthesize_zeroq(problem, 8, 0, 0, Variant.CODE).raw["image"]
    assert 0.25 * 0.012 < grey.std() < 0.25 * 0.015
    made = synthesize_zeroq(problem, 8, 0, 15, Variant.CODE)
    assert made.loss[-1] < 0.8 * made.loss[0]


def test_gzsq_as_in_the_paper(problems: dict[str, Problem]) -> None:
    problem = problems[KINDS[1]]
    targets = additive_targets(problem.graph)
    weights = [problem.graph.initializers[node.input[1]] for node in problem.graph.nodes if len(node.input) > 2]
    biases = [problem.graph.initializers[node.input[2]] for node in problem.graph.nodes if len(node.input) > 2]
    rows = weights[0].reshape(len(weights[0]), -1)
    np.testing.assert_allclose(targets[0].mean, rows.mean(1) + biases[0], atol=1e-5)
    np.testing.assert_allclose(targets[0].std, np.sqrt(1 + rows.var(1)), rtol=1e-4)
    mean, std = targets[2].mean.numpy(), targets[2].std.numpy()  # as many channels as the layer before
    rows = weights[2].reshape(len(weights[2]), -1)
    np.testing.assert_allclose(mean, rows.mean(1) + biases[2] + targets[1].mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(rows.var(1) + targets[1].std.numpy() ** 2), rtol=1e-4)
    shrunk = targets[3]  # ten classes of 32 channels: the mean deviation and the least one
    rows = weights[3].reshape(len(weights[3]), -1)
    np.testing.assert_allclose(shrunk.std, np.sqrt(rows.var(1) + (std.mean() + std.min()) ** 2), rtol=1e-4)
    made = synthesize_gzsq(problem, 16, 0, STEPS, Rule.ADDITIVE)
    assert made.loss[-1] < 0.9 * made.loss[0]


def test_z_score_is_zero_at_the_means() -> None:
    target = Target("t", 1, torch.tensor([1.0, -1.0]), torch.tensor([1.0, 2.0]), torch.ones(2), "")
    value = torch.tensor([[0.0, -3.0], [2.0, 1.0]])
    assert float(z_score({"t": value}, [target])) == pytest.approx(0.0, abs=1e-6)
    moved = float(z_score({"t": value + 1}, [target]))
    expected = [1 / np.sqrt(1 + 1), 1 / np.sqrt(4 + 4)]
    assert moved == pytest.approx(np.mean(expected), rel=1e-4)


def test_statistics_are_of_channels_over_batch_and_places() -> None:
    value = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    mean, std = measured(value, 1)
    np.testing.assert_allclose(mean, value.numpy().mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(std, value.numpy().std((0, 2, 3)), rtol=1e-5)
    assert measured(value.movedim(1, -1), -1)[0].tolist() == pytest.approx(mean.tolist())


def test_swing_shifts_what_strided_convolutions_read(problems: dict[str, Problem]) -> None:
    problem = problems[KINDS[0]]
    edits = swings(problem.graph, torch.Generator().manual_seed(0))
    strided = [node.input[0] for node in problem.graph.nodes if 2 in [v for a in node.attribute for v in a.ints]]
    assert list(edits) == strided
    value = torch.arange(36.0).reshape(1, 1, 6, 6)
    shifted = [edits[strided[0]](value) for _ in range(200)]
    assert all(each.shape == value.shape for each in shifted)
    assert len({float(each[0, 0, 2, 2]) for each in shifted}) == 9


def test_gates_silence_a_fixed_share_of_channels(problems: dict[str, Problem]) -> None:
    targets = find_targets(problems[KINDS[0]], 0)
    networks = gates(targets, torch.Generator().manual_seed(0))
    masks = [each[targets[0].tensor](torch.ones(2, 16, 3, 3)) for each in networks]
    assert all(torch.equal(mask, network[targets[0].tensor](torch.ones(2, 16, 3, 3)))
               for mask, network in zip(masks, networks, strict=True))  # fmt: skip
    assert 0 < sum(float((mask == 0).float().mean()) for mask in masks) / len(masks) < 0.3
    assert targets[-1].tensor not in networks[0]


def test_synthesis_keeps_the_method_and_its_curve(problems: dict[str, Problem]) -> None:
    problem = replace(problems[KINDS[0]], multiply_adds=10**9, seconds=3.0)
    made = synthesize(problem, Method.GENIE, 16, 0)
    assert made.method is Method.GENIE
    assert made.steps == len(made.loss) > 0
    assert made.held_out["image"].shape == (16, 1, 8, 8)

"""How much each witness of a preprocessing is to be believed, fitted on networks trained under known preprocessing.

    python -m tests.bench.scaling_weights --population FOLDER [--seeds 2] [--heard CACHE.jsonl] [--dry]

``tests.bench.population`` makes the folder. Every network is heard under every hypothesis; weights, none negative, are
fitted by maximum likelihood with a ridge. Figures are of architectures left out of the fit, one at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converter.admission import admit
from converter.graph import Graph
from converter.inputs.conventions import candidates
from converter.inputs.plans import ADJUSTABLE, BYTE_SCALES
from converter.inputs.posterior import DOUBT, features
from converter.inputs.recognition import describe_inputs
from converter.inputs.scaling import hear_hypotheses
from converter.inputs.testimony import Witness
from converter.normalization import normalize
from converter.reconstruction import reconstruct
from tests.bench.population import networks
from tests.bench.results import publish, table

TITLE = "Which preprocessing: networks trained under known ones, each judged by the others"
RIDGE = 0.02
STEPS = 1000
AUDIBLE = 0.5  # of the witnesses at a time: none may be left out because others say the same, for they may be silent
TEMPERS = [0.05 * step for step in range(4, 31)]  # by which all weights together are multiplied, once all are audible
NAMES = {
    "imagenet": ("ImageNet mean and deviation", "mean 0.449, deviation 0.226"),
    "caffe": ("0..255 minus mean, BGR", "0..255 minus mean"),
    "0..255 minus mean": ("0..255 minus mean", "0..255 minus mean, BGR"),
    "int16": ("16-bit sound",),
    "-1..1": ("-1..1", "-1..1 sound"),
}
LEAST_LEARNT = 1.5  # times chance; who has learnt nothing was trained under nothing


@dataclass(frozen=True)
class Case:
    """One network heard with one seed: what each hypothesis' witnesses say, and which hypotheses are true."""

    name: str
    architecture: str
    hypotheses: tuple[str, ...]
    large: tuple[bool, ...]  # scales of 0..255
    said: tuple[dict[str, float], ...]
    true: tuple[bool, ...]


def listen(path: Path, sidecar: dict[str, Any], seed: int) -> dict[str, Any]:
    """What was heard of a network, as JSON."""
    normalized = normalize(admit(path).model)
    graph, network = Graph(normalized.model), reconstruct(normalized.model)
    plans = describe_inputs(graph, {})
    index = next(at for at, plan in enumerate(plans) if plan.kind in ADJUSTABLE)
    hypotheses = candidates(plans[index])
    heard = hear_hypotheses(network, graph, plans, index, hypotheses, normalized.batch_norms, seed)
    return {
        "name": sidecar["name"],
        "seed": seed,
        "architecture": sidecar["architecture"],
        "truth": sidecar["scaling"]["name"],
        "learnt": sidecar["output"] == "picture" or sidecar["score"] * sidecar["classes"] >= LEAST_LEARNT,
        "hypotheses": {
            each.name: {"large": max(each.scale) > BYTE_SCALES, "heard": dict(one.testimony)}
            for each, one in zip(hypotheses, heard, strict=True)
        },
    }


def as_case(row: dict[str, Any]) -> Case:
    """Twins, which no witness tells apart, are both true."""
    names = tuple(row["hypotheses"])
    heard = [{Witness(key): value for key, value in row["hypotheses"][each]["heard"].items()} for each in names]
    truth = NAMES.get(row["truth"], (row["truth"],))
    said = tuple(features(heard))
    true = [each in truth for each in names]
    twins = tuple(
        any(true[other] and heard[at] == heard[other] for other in range(len(names))) for at in range(len(names))
    )
    large = tuple(bool(row["hypotheses"][each]["large"]) for each in names)
    return Case(row["name"], row["architecture"], names, large, said, twins)


def fit(cases: Sequence[Case]) -> dict[str, float]:
    """The weights under which the true hypotheses are likeliest, none negative, were half of the witnesses silent."""
    names = sorted({name for case in cases for said in case.said for name in said})
    free = torch.full((len(names),), -1.0, requires_grad=True)
    shares = {case.name: sum(other.name == case.name for other in cases) for case in cases}
    width = max(len(case.hypotheses) for case in cases)
    matrix = torch.zeros(len(cases), width, len(names))
    allowed, true = torch.zeros(len(cases), width, dtype=torch.bool), torch.zeros(len(cases), width, dtype=torch.bool)
    for row, case in enumerate(cases):
        for column, said in enumerate(case.said):
            allowed[row, column], true[row, column] = True, case.true[column]
            for name, value in said.items():
                matrix[row, column, names.index(name)] = value
    share = torch.tensor([1 / shares[case.name] for case in cases])
    optimizer = torch.optim.Adam([free], 0.03)
    draw = torch.Generator().manual_seed(0)

    def unlikelihood(weights: torch.Tensor, audible: torch.Tensor) -> torch.Tensor:
        scores = (-((matrix * audible) @ weights)).masked_fill(~allowed, -torch.inf)
        posterior = (1 - DOUBT) * scores.softmax(1) + DOUBT / allowed.sum(1, keepdim=True)
        return -(share * (posterior * true).sum(1).log()).sum() / share.sum()

    for _ in range(STEPS):
        audible = (torch.rand((len(cases), 1, len(names)), generator=draw) < AUDIBLE).float()
        weights = torch.nn.functional.softplus(free)
        loss = unlikelihood(weights, audible) + RIDGE * weights.square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    weights = torch.nn.functional.softplus(free.detach())
    everyone = torch.ones(len(names))
    tempered = min(TEMPERS, key=lambda factor: float(unlikelihood(factor * weights, everyone)))
    return {name: round(float(tempered * value), 3) for name, value in zip(names, weights, strict=True)}


@dataclass(frozen=True)
class Verdict:
    """What was thought of one case: the taken hypothesis and its probability, of its twins and of its family."""

    case: Case
    taken: int
    probability: float
    family: float
    right: bool
    right_family: bool


def conclude(case: Case, weights: dict[str, float]) -> Verdict:
    """The verdict with no prior: the population has every preprocessing as often."""
    scores = np.array([-sum(weights.get(name, 0.0) * value for name, value in said.items()) for said in case.said])
    posterior = np.exp(scores - scores.max())
    posterior = (1 - DOUBT) * posterior / posterior.sum() + DOUBT / len(scores)
    taken = int(posterior.argmax())
    same = [at for at in range(len(scores)) if case.said[at] == case.said[taken]]
    family = [at for at in range(len(scores)) if case.large[at] == case.large[taken]]
    true_large = next(case.large[at] for at in range(len(scores)) if case.true[at])
    return Verdict(
        case,
        taken,
        float(posterior[same].sum()),
        float(posterior[family].sum()),
        case.true[taken],
        case.large[taken] == true_large,
    )


def judge_left_out(cases: Sequence[Case]) -> list[Verdict]:
    """Every case judged by weights fitted without its architecture."""
    verdicts = []
    for architecture in sorted({case.architecture for case in cases}):
        weights = fit([case for case in cases if case.architecture != architecture])
        verdicts += [conclude(case, weights) for case in cases if case.architecture == architecture]
    return verdicts


def main() -> None:
    """The weights are printed, and what they are worth is in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--heard", type=Path, default=None, help="what was heard, kept from one run to the next")
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    if given.heard is not None and given.heard.exists():
        rows = {(row["name"], row["seed"]): row for row in map(json.loads, given.heard.read_text().splitlines())}
    for path, sidecar in networks(given.population):
        for seed in range(given.seeds):
            if (sidecar["name"], seed) not in rows:
                row = rows[sidecar["name"], seed] = listen(path, sidecar, seed)
                if given.heard is not None:
                    with given.heard.open("a") as stream:
                        stream.write(json.dumps(row) + "\n")
    cases = [as_case(row) for row in rows.values() if row["learnt"]]
    verdicts = judge_left_out(cases)
    lines = [
        ["networks, each with so many seeds", f"{len({case.name for case in cases})}, {given.seeds}"],
        ["scale family (unit or 0..255) right, left out", _share([each.right_family for each in verdicts])],
        ["preprocessing right, left out (twins counted together)", _share([each.right for each in verdicts])],
        ["most probable wrong family", f"{max((v.family for v in verdicts if not v.right_family), default=0):.2f}"],
        [
            "most probable wrong preprocessing",
            f"{max((v.probability for v in verdicts if not v.right), default=0):.2f}",
        ],
        ["mean probability of what was taken", f"{np.mean([v.probability for v in verdicts]):.3f}"],
    ]
    print("WEIGHTS: Mapping[str, float] = {")
    for name, weight in fit(cases).items():
        print(f'    "{name}": {weight},')
    print("}")
    for verdict in verdicts:
        if not verdict.right and (not verdict.right_family or verdict.probability > 0.8):
            truth = [name for name, true in zip(verdict.case.hypotheses, verdict.case.true, strict=True) if true]
            taken = verdict.case.hypotheses[verdict.taken]
            print(verdict.case.name, "taken for", taken, f"{verdict.probability:.2f}", "is", truth)
    publish(TITLE, "scaling_weights", [], table(["what", "measured"], lines), dry=given.dry)


def _share(right: Sequence[bool]) -> str:
    return f"{sum(right)} of {len(right)}"


if __name__ == "__main__":
    main()

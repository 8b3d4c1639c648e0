"""How much each witness is to be believed of inputs that are no pictures, fitted on networks of known preprocessing.

    python -m tests.bench.feature_weights --population FOLDER [--heard CACHE.jsonl] [--dry]

``tests.bench.feature_population`` makes the folder. A hypothesis is true if what it makes of drawn samples has the mean
and the deviation of the network's own inputs, within half an octave and half a deviation; where none has, the nearest
one is. Figures are of architectures left out of the fit, one at a time, with the product's prior.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converter.admission import admit
from converter.graph import Graph
from converter.inputs.conventions import UNKNOWN, prior
from converter.inputs.drawing import draw
from converter.inputs.plans import InputPlan, Scaling
from converter.inputs.posterior import features, judge
from converter.inputs.recognition import describe_inputs
from converter.inputs.recorded import recorded_scaling
from converter.inputs.scaling import hear_hypotheses, hypotheses_of
from converter.inputs.testimony import Witness
from converter.normalization import normalize
from converter.reconstruction import reconstruct
from tests.bench.feature_population import feature_networks
from tests.bench.results import publish, table
from tests.bench.scaling_weights import Case, fit

TITLE = "Which numbers, where inputs are no pictures: networks of known preprocessing, each judged by the others"
SURE_ENOUGH = 0.8
TRIED = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # doubts


@dataclass(frozen=True)
class Known:
    """One network: the case to fit, the testimonies, the prior, and how far off each hypothesis is."""

    case: Case
    heard: tuple[dict[Witness, float | None], ...]
    odds: tuple[float, ...]
    octaves: tuple[float, ...]  # of the deviation, too large is positive
    shifts: tuple[float, ...]  # of the mean, in true deviations


def listen(path: Path, facts: dict[str, Any], seed: int) -> dict[str, Any] | None:
    """What was heard of a network, as JSON; None where the file itself says how its inputs are."""
    normalized = normalize(admit(path).model)
    graph, network = Graph(normalized.model), reconstruct(normalized.model)
    plans = describe_inputs(graph, {})
    if plans[0].settled or recorded_scaling(graph, plans[0], normalized.batch_norms) is not None:
        return None
    hypotheses = hypotheses_of(graph, plans[0], normalized.batch_norms)
    heard = hear_hypotheses(network, graph, plans, 0, hypotheses, normalized.batch_norms, seed)
    odds = prior(plans[0], hypotheses, UNKNOWN)
    return {
        "name": facts["name"],
        "architecture": facts["architecture"],
        "kind": str(plans[0].kind),
        "hypotheses": [
            {
                "name": each.name,
                "heard": dict(one.testimony),
                "odds": odds[each.name],
                "off": _off(plans[0], each, facts),
            }
            for each, one in zip(hypotheses, heard, strict=True)
        ],
    }


def _off(plan: InputPlan, scaling: Scaling, facts: dict[str, Any]) -> tuple[float, float]:
    """Octaves between deviations and true deviations between means, of drawn samples and the network's inputs."""
    raw = draw(plan, 64, np.random.default_rng(1))
    deviation = float(raw.std()) * scaling.scale[0]
    mean = float(raw.mean()) * scaling.scale[0] + scaling.offset[0]
    return math.log2(deviation / facts["deviation"]), (mean - facts["mean"]) / facts["deviation"]


def as_known(row: dict[str, Any]) -> Known:
    """Near ones are true, or else the nearest."""
    heard = tuple({Witness(key): value for key, value in each["heard"].items()} for each in row["hypotheses"])
    octaves, shifts = zip(*(each["off"] for each in row["hypotheses"]), strict=True)
    distance = [max(abs(o), abs(s)) / 0.5 for o, s in zip(octaves, shifts, strict=True)]
    limit = max(1.0, min(distance))
    names = tuple(each["name"] for each in row["hypotheses"])
    case = Case(
        row["name"],
        row["architecture"],
        names,
        (False,) * len(names),
        tuple(features(heard, conventional=False)),
        tuple(each <= limit for each in distance),
    )
    return Known(case, heard, tuple(each["odds"] for each in row["hypotheses"]), octaves, shifts)


@dataclass(frozen=True)
class Verdict:
    """What was thought of one network: the probability of what was taken with its like, and how far off that is."""

    known: Known
    taken: str
    probability: float
    right: bool
    octaves: float
    shift: float

    @property
    def normalized(self) -> bool:
        """Whether a folded normalization could be heard."""
        return any(name.startswith("features normalized") for name in self.known.case.said[0])


def conclude(known: Known, weights: dict[str, float]) -> Verdict:
    """The product's own verdict under other weights."""
    judged = judge(known.heard, known.odds, weights, conventional=False)
    best = max(range(len(judged)), key=lambda each: judged[each].probability)
    scale, shift = known.octaves[best], known.shifts[best]
    like = [
        each
        for each in range(len(judged))
        if abs(known.octaves[each] - scale) <= 0.5 and abs(known.shifts[each] - shift) <= 0.5 * 2**scale
    ]
    together = sum(judged[each].probability for each in like)
    right = any(known.case.true[each] for each in like)
    return Verdict(known, known.case.hypotheses[best], together, right, scale, shift)


def fit_left_out(every: Sequence[Known]) -> dict[str, dict[str, float]]:
    """Weights fitted without each architecture."""
    return {
        architecture: fit([each.case for each in every if each.case.architecture != architecture])
        for architecture in sorted({each.case.architecture for each in every})
    }


def likelihood(every: Sequence[Known], fitted: dict[str, dict[str, float]], kind: str, doubt: float) -> float:
    """The mean logarithm of the probability of what is true, of networks left out of the fit, under a doubt."""
    found = []
    for known in every:
        if any(name.startswith(f"features {kind}") for name in known.case.said[0]):
            doubts = {f"features {kind}": doubt}
            judged = judge(known.heard, known.odds, fitted[known.case.architecture], conventional=False, doubts=doubts)
            chance = sum(each.probability for each, true in zip(judged, known.case.true, strict=True) if true)
            found.append(math.log(max(chance, 1e-9)))
    return float(np.mean(found))


HEADINGS = (
    "networks, of whose inputs BatchNorm recorded nothing",
    "right, within half an octave and half a deviation",
    "mean probability of what was taken",
    f"wrong with a probability above {SURE_ENOUGH}",
    "deviation off by octaves, median",
    "mean off by deviations, median",
)


def _figures(found: Sequence[Verdict]) -> tuple[str, ...]:
    return (
        str(len(found)),
        str(sum(each.right for each in found)),
        f"{np.mean([each.probability for each in found]):.2f}",
        str(sum(not each.right and each.probability > SURE_ENOUGH for each in found)),
        f"{np.median([abs(each.octaves) for each in found]):.1f}",
        f"{np.median([abs(each.shift) for each in found]):.1f}",
    )


def main() -> None:
    """The weights are printed, and what they are worth is in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=Path, required=True)
    parser.add_argument("--heard", type=Path, default=None, help="what was heard, kept from one run to the next")
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    if given.heard is not None and given.heard.exists():
        rows = {row["name"]: row for row in map(json.loads, given.heard.read_text().splitlines())}
    recorded = 0
    for path, facts in feature_networks(given.population):
        if facts["name"] not in rows:
            row = listen(path, facts, 0)
            if row is None:
                recorded += 1
                continue
            rows[facts["name"]] = row
            if given.heard is not None:
                with given.heard.open("a") as stream:
                    stream.write(json.dumps(row) + "\n")
    every = [as_known(row) for row in rows.values()]
    fitted = fit_left_out(every)
    verdicts = [conclude(each, fitted[each.case.architecture]) for each in every]
    columns = ["what", "with BatchNorm", "without", "all"]
    parts = [[each for each in verdicts if each.normalized is wanted] for wanted in (True, False)]
    lines = [list(row) for row in zip(HEADINGS, *(_figures(each) for each in (*parts, verdicts)), strict=True)]
    for kind in ("normalized", "plain"):
        likely = {doubt: round(likelihood(every, fitted, kind, doubt), 3) for doubt in TRIED}
        print(kind, "mean log probability of what is true, by doubt:", likely)
    print("WEIGHTS: Mapping[str, float] = {")
    for name, weight in fit([each.case for each in every]).items():
        print(f'    "{name}": {weight},')
    print("}", recorded, "recorded")
    for verdict in verdicts:
        words = (f"{verdict.probability:.2f}", f"{verdict.octaves:+.1f} octaves", f"{verdict.shift:+.1f} deviations")
        print("right" if verdict.right else "WRONG", verdict.known.case.name, verdict.taken, *words)
    publish(
        TITLE,
        "feature_weights",
        [],
        table(columns, lines),
        dry=given.dry,
    )


if __name__ == "__main__":
    main()

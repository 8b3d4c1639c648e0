"""What a mask hides is not judged."""

from __future__ import annotations

import numpy as np

from converter.evaluation.fidelity import measure_fidelity
from converter.evaluation.hidden import shown
from converter.graph import Graph
from converter.normalization import normalize
from converter.quantization.treatments import Treatment, treat, uniform
from tests.transformers import encoder


def test_only_the_places_that_a_mask_of_numbers_hides_are_zero() -> None:
    value = np.ones((2, 3, 4), np.float32)
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    assert shown(value, {"mask": mask}, ["mask"]).sum(2).tolist() == [[4, 4, 0], [4, 0, 0]]
    assert shown(value, {"mask": mask != 0}, ["mask"]) is value
    assert shown(value, {"mask": mask[:1]}, ["mask"]) is value
    assert shown(value, {"mask": mask}, []) is value
    assert shown(value[:, :, 0], {"mask": mask}, ["mask"]).sum() == 6


def test_an_encoder_is_judged_by_its_real_tokens() -> None:
    model = normalize(encoder(-1e9)).model
    made = treat(model, uniform(Graph(model), Treatment.WEIGHTS)).model
    generator = np.random.default_rng(0)
    ids, mask = generator.integers(0, 200, (4, 8)), np.ones((4, 8), np.int64)
    mask[:, 5:] = 0
    feed = {"input_ids": ids, "attention_mask": mask}
    whole, judged = (
        measure_fidelity(model, made, [feed], "tokens", masks=masks).outputs[0] for masks in ([], ["attention_mask"])
    )
    assert whole.max_abs_error >= judged.max_abs_error > 0
    assert whole.sqnr_db != judged.sqnr_db

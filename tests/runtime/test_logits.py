"""Processors against transformers' own, on random logits: the processed distributions are equal within 1e-5."""

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from onnxgpt.runtime.config import GenerationConfig
from onnxgpt.runtime.logits import Rows, log_sum_exp, processors_for, softmax

CASES = [
    ({"temperature": 0.7}, lambda: [TemperatureLogitsWarper(0.7)]),
    ({"top_k": 7}, lambda: [TopKLogitsWarper(7)]),
    ({"top_k": 5000}, lambda: [TopKLogitsWarper(5000)]),
    ({"top_p": 0.3}, lambda: [TopPLogitsWarper(0.3)]),
    ({"top_p": 0.95}, lambda: [TopPLogitsWarper(0.95)]),
    ({"top_p": 0.001}, lambda: [TopPLogitsWarper(0.001)]),
    ({"min_p": 0.05}, lambda: [MinPLogitsWarper(0.05)]),
    ({"repetition_penalty": 1.3}, lambda: [RepetitionPenaltyLogitsProcessor(1.3)]),
    ({"repetition_penalty": 0.8}, lambda: [RepetitionPenaltyLogitsProcessor(0.8)]),
    (
        {"repetition_penalty": 1.2, "temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
        lambda: [
            RepetitionPenaltyLogitsProcessor(1.2),
            TemperatureLogitsWarper(1.5),
            TopKLogitsWarper(40),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.02),
        ],
    ),
]


def pipeline_for(config):
    return processors_for(config, vocabulary_size=1000, context_length=100)


@pytest.mark.parametrize(("options", "judges"), CASES)
def test_distribution_equals_transformers(options, judges):
    generator = np.random.default_rng(5)
    logits = (generator.standard_normal((3, 1000)) * 4).astype(np.float32)
    token_ids = generator.integers(0, 1000, (3, 20)).tolist()
    before = logits.copy()
    config = GenerationConfig(**({"do_sample": True, "top_k": 0} | options))
    ours = pipeline_for(config)(Rows(token_ids, [10] * 3, [0] * 3), logits)
    theirs = torch.from_numpy(logits.copy())
    for judge in judges():
        theirs = judge(torch.tensor(token_ids), theirs)
    np.testing.assert_allclose(softmax(ours), torch.softmax(theirs, -1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(theirs.numpy()))
    np.testing.assert_array_equal(logits, before)


def test_greedy_keeps_the_penalty_alone():
    assert len(pipeline_for(GenerationConfig(repetition_penalty=1.1, temperature=0.5, top_k=3)).processors) == 1
    assert pipeline_for(GenerationConfig()).processors == ()


def test_log_sum_exp_of_large_logits():
    logits = np.array([[1000.0, 1000.0], [-1000.0, -1000.0]], np.float32)
    np.testing.assert_allclose(log_sum_exp(logits), [1000 + np.log(2), -1000 + np.log(2)], rtol=1e-6)

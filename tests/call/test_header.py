"""The codes and rules of `zokern.call` are those of `csrc/zokern.h`, in its order."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from zokern.call import codes
from zokern.call.rules import AdamRule, AdaMURule

HEADER = (Path(__file__).resolve().parents[2] / "csrc" / "zokern.h").read_text()
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


def enum(name: str) -> dict[str, int]:
    body = re.search(rf"enum {name} {{([^}}]*)}}", HEADER)
    assert body is not None
    return {key: int(value) for key, value in re.findall(r"ZK_(\w+) = (\d+)", body[1])}


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("zk_distribution", codes.DISTRIBUTION),
        ("zk_rounding", codes.ROUNDING),
        ("zk_adam_variant", codes.VARIANT),
        ("zk_activation", codes.ACTIVATION),
    ],
)
def test_codes_are_those_of_the_header(name: str, table: dict[str, int]) -> None:
    assert {key.upper(): code for key, code in table.items()} == enum(name)


def test_dtypes_are_those_of_the_header() -> None:
    assert {DTYPES[key]: code for key, code in enum("zk_dtype").items()} == codes.DTYPE


@pytest.mark.parametrize(("struct", "rule"), [("zk_adam_rule", AdamRule), ("zk_adamu_rule", AdaMURule)])
def test_rules_have_the_fields_of_the_header_in_its_order(struct: str, rule: type) -> None:
    body = re.search(rf"typedef struct {struct} {{\s*float ([^;]*);", HEADER)
    assert body is not None
    assert [field.name for field in fields(rule)] == body[1].split(", ")
    numbers = [float(i) for i in range(8)]
    assert rule.from_list(numbers).as_list() == numbers

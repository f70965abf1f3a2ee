"""Tensors whose elements do not lie at their address: refused by name or written out, never read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import zokern
from tests.tt.conftest import make_cores


def freed() -> Tensor:
    tensor = torch.ones(24)
    tensor.untyped_storage().resize_(0)
    return tensor


def cut() -> Tensor:
    tensor = torch.ones(24)
    tensor.untyped_storage().resize_(40)
    return tensor


def cut_columns() -> Tensor:
    tensor = torch.ones(24, 3)[:, 1]
    tensor.untyped_storage().resize_(24 * 3 * 4 - 8)
    return tensor


def dtensor() -> Tensor:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    return distribute_tensor(torch.ones(24), init_device_mesh("cpu", (1,)))


def functional() -> Tensor:
    return torch._to_functional_tensor(torch.ones(24))


ODD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "freed": (freed, "needs 96 bytes of storage and has 0: its memory was freed"),
    "cut": (cut, "needs 96 bytes of storage and has 40"),
    "cut columns": (cut_columns, "needs 284 bytes of storage and has 280"),
    "zero tensor": (lambda: torch._efficientzerotensor(24), "is a zero tensor without memory"),
    "negated": (lambda: torch._neg_view(torch.ones(24)), "is a negated view"),
    "imaginary part": (lambda: torch.ones(24, dtype=torch.cfloat).conj().imag, "is a negated view"),
    "conjugate": (lambda: torch.ones(24, dtype=torch.cfloat).conj(), "has dtype torch.complex64"),
    "sparse": (lambda: torch.ones(24).to_sparse(), "has layout torch.sparse_coo"),
    "compressed": (lambda: torch.ones(4, 6).to_sparse_csr(), "has layout torch.sparse_csr"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(24), 0.1, 0, torch.qint8),
        "has dtype torch.qint8",
    ),
    "mkldnn": (lambda: torch.ones(24).to_mkldnn(), "has layout torch._mkldnn"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(20), torch.ones(4)]), "is a nested tensor"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(20), torch.ones(4)], layout=torch.jagged),
        "has layout torch.jagged",
    ),
    "functional": (functional, "is a functional tensor"),
    "DTensor": (dtensor, r"is a DTensor; .*to_local\(\)"),
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest) -> tuple[Tensor, str]:
    make, message = ODD[request.param]
    return make(), message


def test_a_list_refuses_them_by_name(odd: tuple[Tensor, str]) -> None:
    tensor, message = odd
    usual = torch.ones(24)
    for tensors in ([tensor], [usual, tensor]):
        for _ in range(3):
            with pytest.raises((TypeError, ValueError), match=rf"params\[{len(tensors) - 1}\] {message}"):
                zokern.perturb_(tensors, 7, 1.0)
    with pytest.raises((TypeError, ValueError), match=rf"exp_avgs\[0\] {message}"):
        zokern.adam_([usual], [tensor], [torch.zeros(24)], 7, 1.0, lr=0.1, step=1)
    assert usual.eq(1).all()


def test_outputs_and_dense_tensors_are_refused_by_name(odd: tuple[Tensor, str]) -> None:
    tensor, message = odd
    usual = torch.ones(24)
    with pytest.raises((TypeError, ValueError), match=rf"out\[0\] {message}"):
        zokern.perturb_([usual], 7, 1.0, out=[tensor])
    with pytest.raises((TypeError, ValueError), match=rf"dense\[0\] {message}"):
        zokern.ops.add_dense_([usual], [tensor], 1.0)
    assert usual.eq(1).all()


def test_tensor_train_ops_refuse_them_by_name_or_write_them_out(odd: tuple[Tensor, str]) -> None:
    tensor, message = odd
    cores, x = make_cores([4, 6, 3, 8], 3), torch.ones(24)
    for _ in range(3):
        usual = zokern.tt_linear(x, cores, 2)
        with pytest.raises((TypeError, ValueError), match=f"out {message}"):
            zokern.tt_linear(x, cores, 2, out=tensor)
        with pytest.raises((TypeError, ValueError), match=f"bias {message}"):
            zokern.tt_linear(x, cores, 2, tensor)
        if "negated" in message:
            value = tensor.resolve_neg()
            torch.testing.assert_close(zokern.tt_linear(tensor, cores, 2), usual * value[0])
        elif "zero tensor" in message:
            assert not zokern.tt_linear(tensor, cores, 2).any()
        else:
            with pytest.raises((TypeError, ValueError), match=f"x {message}"):
                zokern.tt_linear(tensor, cores, 2)


@pytest.mark.parametrize("kind", ["freed", "zero tensor", "negated"])
def test_a_core_is_refused_by_name(kind: str) -> None:
    cores = make_cores([4, 6, 3, 8], 3)
    if kind == "freed":
        cores[3].untyped_storage().resize_(0)
    else:
        cores[3] = torch._neg_view(cores[3]) if kind == "negated" else torch._efficientzerotensor((3, 8, 1))
    for call in (
        lambda: zokern.tt_linear(torch.ones(24), cores, 2),
        lambda: zokern.tt_halves(cores, 2),
        lambda: zokern.tt_adapter(torch.ones(24), cores, cores, down_split=2, up_split=2),
    ):
        with pytest.raises(ValueError, match=r"\[3\] (is a negated|is a zero|needs)"):
            call()


def test_freed_memory_is_seen_after_a_call_was_kept() -> None:
    cores, x, p = make_cores([4, 6, 3, 8], 3), torch.ones(24), torch.ones(24)
    with torch.no_grad():
        for _ in range(3):
            zokern.tt_linear(x, cores, 2)
            zokern.perturb_([p], 7, 1.0)
        p.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=r"params\[0\] needs"):
            zokern.perturb_([p], 7, 1.0)
        x.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match="x needs"):
            zokern.tt_linear(x, cores, 2)
        cores[0].untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=r"cores\[0\] needs"):
            zokern.tt_linear(torch.ones(24), cores, 2)


def test_within_a_transform() -> None:
    def moved(x: Tensor) -> Tensor:
        zokern.perturb_([x], 7, 1.0)
        return x

    for transform in (lambda: torch.func.vmap(moved)(torch.ones(2, 24)),
                      lambda: torch.func.jvp(moved, (torch.ones(24),), (torch.ones(24),))):  # fmt: skip
        with pytest.raises(TypeError, match=r"params\[0\] is inside a transform of torch.func"):
            transform()


def test_meta_and_fake_tensors_have_nothing_to_write() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(24)
    zokern.perturb_([fake], 7, 1.0)
    zokern.perturb_([torch.ones(24, device="meta")], 7, 1.0)
    cores = [core.to("meta") for core in make_cores([4, 6, 3, 8], 3)]
    assert zokern.tt_linear(torch.ones(2, 24, device="meta"), cores, 2).shape == (2, 24)


def test_an_optimizer_refuses_a_distributed_parameter() -> None:
    with pytest.raises(TypeError, match=r"is a DTensor"):
        zokern.optim.MeZO([torch.nn.Parameter(dtensor())], lr=0.1)

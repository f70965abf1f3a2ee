"""Old module names: the same modules, with a warning that says the new name."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from zokern.moved import MOVED, install, new_name

pytest.importorskip("typer", reason="zokern[train] is not installed")


@pytest.fixture
def forget():
    """Forgets what was imported under old names, so that the next import warns again."""

    def clear():
        for name in [name for name in sys.modules if new_name(name)]:
            del sys.modules[name]

    clear()
    yield
    clear()


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_new_module(old, forget):
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}$"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == module.__spec__.name == MOVED[old]


def test_modules_of_a_package_and_their_classes_are_the_same(forget):
    from zokern.app.tasks import Task
    from zokern.app.training.loop import Stopped

    with pytest.warns(DeprecationWarning, match=r"zokern.training.loop is now zokern.app.training.loop"):
        import zokern.training.loop
    with pytest.warns(DeprecationWarning, match=r"zokern.tasks is now zokern.app.tasks"):
        from zokern.tasks import Task as OldTask
    assert zokern.training.loop.Stopped is Stopped and OldTask is Task
    assert zokern.training.loop is sys.modules["zokern.app.training.loop"]


def test_the_warning_points_at_who_imports(forget):
    with pytest.warns(DeprecationWarning) as caught:
        import zokern.tuning  # noqa: F401
    assert [warning.filename for warning in caught] == [__file__]


def test_what_had_the_old_modules_names_has_them_still(forget):
    with pytest.warns(DeprecationWarning):
        from zokern.models import Batch
        from zokern.training.first_order import FirstOrder
        from zokern.training.methods import FIRST_ORDER_STEP, METHODS, build_optimizer, check_method
        from zokern.training.options import DTYPES, SCHEDULES, TrainOptions, lr_factor
        from zokern.training.rates import default_options, default_tuning
    assert "mezo" in METHODS and FIRST_ORDER_STEP == 3 and TrainOptions().task == "mr"
    assert all((FirstOrder, Batch, DTYPES, SCHEDULES, build_optimizer, check_method))
    assert all(map(callable, (lr_factor, default_options, default_tuning)))


def test_names_that_did_not_move():
    assert new_name("zokern.optim") is None and new_name("torch") is None
    assert new_name("zokern.trainings") is None
    assert new_name("zokern.training.loop") == "zokern.app.training.loop"
    assert new_name("zokern.training.methods") == "zokern.app.methods"
    with pytest.raises(ModuleNotFoundError, match=r"zokern\.app\.training\.nothing"):
        importlib.import_module("zokern.training.nothing")


def test_installed_once():
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before


def test_importing_zokern_warns_of_nothing():
    code = "import zokern, zokern.app.cli, zokern.app.training, zokern.app.compare"
    result = subprocess.run([sys.executable, "-W", "error::DeprecationWarning:zokern", "-c", code])
    assert result.returncode == 0

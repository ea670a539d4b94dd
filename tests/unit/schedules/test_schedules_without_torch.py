"""The room of schedules stands without torch, and opens fast."""

import subprocess
import sys

CODE = """
import sys
sys.modules['torch'] = None
import lrscope.schedules as s
assert s.parse('warmup(6%) > cosine(to=0)', 100)(6) == 1.0
import lrscope as lrs
assert lrs.Horizon(10).steps == 10
from lrscope.cli.show import show
show('warmup(6%) > cosine(to=0)', steps=100)
heavy = {'matplotlib', 'pyarrow', 'pydantic', 'scipy', 'sklearn'} & set(sys.modules)
assert not heavy, heavy
"""


def test_schedules_and_their_preview_need_no_torch():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "99" in done.stdout


def test_schedules_stand_on_numpy_alone():
    code = "import sys; before = set(sys.modules); import lrscope.schedules; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    rooms = {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert rooms == {"lrscope", "numpy"}

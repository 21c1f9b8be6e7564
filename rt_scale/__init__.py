"""rt-scale: sweeps of self-distillation from random teachers.

The Python API, described in ``docs/python.md``; importing it imports neither torch nor Ray:

>>> import rt_scale as rt
>>> spec = rt.load({"data": {"name": "digits"}, "encoder": {"name": "convnet_8_3"}}, {"student.alpha": 0.5})
>>> spec.student.alpha
0.5
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"
__all__ = ["InputError", "Run", "RunError", "RunSpec", "Store", "Sweep", "load", "open_store", "run", "sweep"]
_ELSEWHERE = {"InputError": "spec.errors", "RunError": "spec.errors", "RunSpec": "spec.run"}
"""Name -> its module, if that is not ``api``; type checkers read ``__init__.pyi``."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Imports and warms up the modules that calls find already loaded."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
import warnings
from types import ModuleType

from . import native

STANDARD = """
abc array ast asyncio base64 binascii bisect bz2 calendar cmath codecs collections.abc colorsys concurrent.futures
contextlib copy csv ctypes dataclasses datetime decimal difflib doctest email.message enum fnmatch fractions
functools getpass glob graphlib gzip hashlib heapq hmac html html.parser importlib.metadata inspect io ipaddress
itertools json keyword linecache locale logging lzma math mimetypes numbers operator os pathlib pickle platform
pprint queue random re reprlib sched secrets select shlex shutil signal socket sqlite3 stat statistics string struct
subprocess sysconfig tempfile textwrap threading time timeit token tokenize traceback types typing unicodedata
unittest urllib.parse urllib.request uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo
encodings.ascii encodings.cp1252 encodings.idna encodings.latin_1 encodings.punycode encodings.unicode_escape
encodings.utf_16 encodings.utf_32 encodings.utf_8_sig encodings.raw_unicode_escape
"""
SCIENTIFIC = ("sympy", "numpy", "numpy.random", "numpy.linalg", "numpy.fft", "pandas")


def preload(extra: list[str]) -> list[str]:
    """Import the usual modules and ``extra``, and use sympy and numpy once. Returns the names of those imported.

    Raises :class:`ImportError` if one of ``extra`` cannot be imported; the usual ones may be missing.
    """
    if not any(name.partition(".")[0] == "pyarrow" for name in extra):
        # pandas uses pyarrow wherever it happens to be installed, which changes values and makes forks slower.
        sys.modules["pyarrow"] = None  # type: ignore[assignment]
    done = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*STANDARD.split(), *SCIENTIFIC):
            try:
                importlib.import_module(name)
                done.append(name)
            except Exception:  # noqa: BLE001 - a broken package may raise anything, and none of these is required
                continue
        for name in extra:
            importlib.import_module(name)
            done.append(name)
        _warm_sympy()
        _warm_numpy()
    return done


def _warm_sympy() -> None:
    """Fill sympy's caches and import what it loads lazily: a first ``solve`` takes as long as ten later ones."""
    sympy = sys.modules.get("sympy")
    if sympy is None:
        return
    x, y = sympy.symbols("x y")
    sympy.solve(x**2 - 5 * x + 6, x)
    sympy.solve([x + y - 3, x - y - 1], [x, y])
    sympy.integrate(x**2 + sympy.sin(x), x)
    sympy.diff(sympy.sin(x) * x**2, x)
    sympy.simplify((x**2 - 1) / (x - 1) + sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
    sympy.factor(x**2 - 1)
    sympy.expand((x + 1) ** 3)
    sympy.limit(sympy.sin(x) / x, x, 0)
    str(sympy.sympify("sqrt(8) + 1/3 + 2*pi").evalf())
    sympy.latex(x / 2)
    sympy.Matrix([[1, 2], [3, 4]]).inv()
    sympy.factorint(360)
    sympy.isprime(97)


def _warm_numpy() -> None:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return
    numpy.linalg.solve(numpy.array([[3.0, 1.0], [1.0, 2.0]]), numpy.array([9.0, 8.0]))
    numpy.random.default_rng(0).normal(size=3).mean()
    str(numpy.arange(3.0))


def settle() -> None:
    """Make forks cheap: exempt live objects from garbage collection, and let new objects be allocated together.

    A forked process copies each page that it writes, so new objects in holes all over the heap are expensive.
    """
    gc.collect()
    gc.freeze()
    if hasattr(native.libc, "mallinfo2"):  # glibc 2.33 and later; elsewhere the holes stay
        _fill_holes()


class _MallocState(ctypes.Structure):
    """``struct mallinfo2``."""

    _fields_ = (("other", ctypes.c_size_t * 9), ("bytes_at_top", ctypes.c_size_t))


def _fill_holes() -> None:
    """Allocate every free block below the top of the heap, permanently."""
    libc = native.libc
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.mallinfo2.restype = _MallocState
    top = libc.sbrk(ctypes.c_ssize_t(0)) - libc.mallinfo2().bytes_at_top
    for size in (*(1 << bits for bits in range(16, 10, -1)), *range(1016, 8, -16)):
        while (block := libc.malloc(ctypes.c_size_t(size))) is not None and block < top:
            pass


def package_folders(names: list[str]) -> list[str]:
    """The folders of imported packages, for modules that they import late."""
    folders: list[str] = []
    for name in names:
        module: ModuleType | None = sys.modules.get(name)
        folders += [os.fspath(path) for path in getattr(module, "__path__", ())]
    return folders

"""Graders of the benchmarks: MATH, TabMWP, GAIA and GSM8K.

All of them are pure: the verdict is a function of the two texts (and a row's unit and choices), never of the clock or
of the machine's load. They parse; they run no text as code. Work is limited by counting it (see :mod:`.evaluate`), so a
hostile answer costs a bounded number of operations and is then called wrong.
"""

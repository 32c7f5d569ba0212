"""Graders: functions ``(answer, expected)`` that judge an answer by the expected one.

All of them are pure: the verdict depends on the two texts (for TabMWP also on the row's unit and choices), never on the
clock or the load of the machine. They parse texts and never run them as code. Work is counted and bounded (see
:mod:`agentopt_local.graders.math.evaluator`), so a hostile answer costs a limited number of operations and is then
called wrong.
"""

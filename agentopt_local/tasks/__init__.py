"""Tasks: where problems come from and how answers to them are graded.

One file per kind of task, and this folder is the only list of them: a file that declares ``KIND`` (a
:class:`~agentopt_local.tasks.base.TaskKind`) is found by its name, which is the prefix of the kind's specs.
"""

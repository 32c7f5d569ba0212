"""The program that runs outside the trainer: launcher, supervisors, and one child process per call.

Standard library only, because it is started by a bare ``exec`` and untrusted code runs in its descendants.
It is imported under the name ``zygote`` there, so modules refer to each other by relative imports alone.

launcher.py     imports the scientific packages once, forks supervisors
supervisor.py   one per worker: forks a child per call, watches the clock, passes results on
child.py        locks itself down, then executes untrusted code
"""

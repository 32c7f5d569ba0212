"""The program that runs outside the trainer: launcher, supervisors, and one child process per call.

It uses only the standard library, because it is started by a bare ``exec`` and untrusted code runs in its descendants.
There it is imported as ``zygote``, so its modules use relative imports only.

What a fork costs is the pages that the child writes, because each of them is copied. So memory reserved for error
reports is mapped but never touched, holes in the heap are filled before the first fork so that new objects are
allocated together (``preload.py``), and a successful call never inspects a signature. Together this saves a third of a
call's processor time.

launcher.py     imports the scientific packages once, forks supervisors
supervisor.py   one per worker: forwards requests and results, enforces the time limit
template.py     one per worker, forked by its supervisor before the first request: forks a child per call
child.py        executes untrusted code, after the child has locked itself down
notices.py      lets the supervisor see the code's files before they are made or deleted
scratch.py      what they add up to
"""

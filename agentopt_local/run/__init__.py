"""The run folder: everything that a training leaves, written so that a kill at any moment loses nothing finished.

::

    config.json      the resolved settings; ``agentopt resume`` reads nothing else
    meta.json        versions, commit, device, sandbox layers, prompt hashes
    problems.jsonl   the questions and expected answers, so that a report needs no data set
    task_rows.jsonl  all rows of a task given in Python, if they and the grader can be read back
    state.json       the trainer's state after the last finished step (replaced atomically)
    steps.jsonl      one StepRow per step: actions, decision, scores before and after, tokens, seconds
    proposals.jsonl  the updates that each step tries, written before they are tried
    rollouts.jsonl   every finished rollout, as soon as it is graded
    costs.jsonl      one CostRow per completion: tokens and money, by role
    metrics.jsonl    one MetricRow per finished step and per few seconds of work
    certificates.jsonl   one CertificateRow when sets begin to be compared on validation problems, one with the verdict
    functions/0003/  one .py file per function after each accepted step, with their source questions in questions.json
                     if they have any: ``diff -r`` shows what was learned
    credit.json      what each function contributes, if that was measured, and what pruning removed
    report.json      the evaluation on the test split (report.SPLIT.json for another one)
    run.log          what happened, in plain lines

This package alone names these files and reads or writes their rows. ``files`` has the names, ``rows`` and ``report``
the types, ``parsing`` how one file is read, ``writer`` the open folder of a run, ``reader`` the folder as it is found,
``tail`` what is being appended.
"""

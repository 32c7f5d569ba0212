"""Sources of problems, one file each; :func:`agentopt_local.task.load_task` opens them by their spec."""

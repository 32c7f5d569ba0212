"""The experiments of arXiv 2402.11359, repeated: ``python -m benchmarks.paper TABLE --model M``."""

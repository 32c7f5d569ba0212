"""Results: trainings by a plan that was written beforehand, in one table with certificates."""

"""Training in processes of its own, through Dagster Pipes and torchrun."""

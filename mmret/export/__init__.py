"""The triplets as others read them: MegaPairs' JSON lines, Hugging Face datasets, WebDataset tars; data cards and model cards."""

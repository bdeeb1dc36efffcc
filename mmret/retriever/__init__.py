"""MMRet-CLIP and MMRet-MLLM: models, their training, and vectors of anything."""

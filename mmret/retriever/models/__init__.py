"""Retrievers at inference: CLIP, multimodal LLM, ONNX."""

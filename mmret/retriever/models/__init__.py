"""Retrievers at inference: CLIP, multimodal LLM, ONNX, OpenVINO, and files for stock engines."""

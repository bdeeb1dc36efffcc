"""What runs the forward pass of an encoder on a CPU in torch's place: ONNX Runtime and OpenVINO."""

"""From a training run to one ONNX file with its contract."""
